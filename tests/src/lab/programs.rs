//! The project's programs that run in the host and the guest, statically linked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};

use crate::cache::{Cache, Key, KeyBuilder};
use crate::command;
use crate::progress::Progress;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A host has no libraries to link with. What a new host runs first is not relocated page by page
/// while a guest waits, and no symbols are hashed during the exec.
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static -C strip=symbols";

/// A program that is built by the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Program {
    package: &'static str,
    name: &'static str,
    /// The feature it needs in addition to the default ones.
    feature: Option<&'static str>,
    /// Whether it is an example of its package.
    is_example: bool,
}

/// The package with the programs of the lab itself.
const OWN: &str = "fdbox-lab";

const fn program(package: &'static str, name: &'static str) -> Program {
    Program {
        package,
        name,
        feature: None,
        is_example: false,
    }
}

pub(crate) const INIT: Program = program(OWN, "lab-init");
pub(crate) const SCENARIOS: Program = program(OWN, "lab-scenarios");
pub(crate) const WITNESS: Program = program(OWN, "lab-witness");
pub(crate) const VMM: Program = program("vmm-example", "vmm-example");
/// The library's own VMM, which does not use KVM, and the program that drives it.
pub(crate) const PAGES: Program = Program {
    is_example: true,
    ..program("vmm-fdbox", "pages")
};
/// What checks each home of boxes.
pub(crate) const HOMES: Program = Program {
    is_example: true,
    feature: Some("fake"),
    ..program("vmm-fdbox", "homes")
};
/// A VMM that claims to be of a later release.
pub(crate) const LATER_VMM: Program = Program {
    feature: Some("later-build"),
    ..VMM
};

impl Program {
    fn kind(self) -> String {
        match self.feature {
            Some(feature) => format!("program-{}-{feature}", self.name),
            None => format!("program-{}", self.name),
        }
    }
}

/// The VMM of a commit; `unpack` writes that commit's tree into a directory.
pub(crate) fn of_commit(
    cache: &Cache,
    commit: &str,
    unpack: impl Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let key = KeyBuilder::new("commit 2").text("commit", commit);
    let key = key.text("flags", RUSTFLAGS).build();
    let built = cache.get("program-of-commit", &key, |dir| {
        let sources = dir.join("sources");
        std::fs::create_dir(&sources)?;
        unpack(&sources)?;
        let target = cache.dir("target-of-commits")?;
        let _lock = cache.lock("target-of-commits")?;
        let mut progress = Progress::start(&format!("The VMM of {commit}"), None);
        let mut cargo = cargo(&sources, "build", &target);
        cargo.args(["--package", VMM.package, "--bin", VMM.name]);
        let log = cache.dir("logs")?.join("programs.log");
        command::counted(&mut cargo, &log, &mut progress)
            .with_context(|| format!("Build the VMM of {commit}"))?;
        let built = target.join(TARGET).join("release").join(VMM.name);
        std::fs::copy(&built, dir.join(VMM.name))
            .with_context(|| format!("Copy {}", built.display()))?;
        std::fs::remove_dir_all(&sources)?;
        progress.done();
        Ok(())
    })?;
    Ok(built.join(VMM.name))
}

/// Every package with a program here. Each build names all of them, so that their common
/// dependencies are built once, with the features that all of them need.
const PACKAGES: [&str; 2] = [OWN, "vmm-example"];

/// What each program depends on, except for the compiler and its flags.
const FILES: [&str; 6] = [
    "Cargo.toml",
    "vmm-fdbox/Cargo.toml",
    "vmm-example/Cargo.toml",
    "tests/Cargo.toml",
    "Cargo.lock",
    ".cargo/config.toml",
];
/// The sources of the lab's own programs: of their package everything but the lab itself, and what they include.
const OWN_SOURCES: [&str; 4] = [
    "tests/src",
    "vmm-example/dist",
    "kmod/kunit.rs",
    "kmod/kunit_boxes.rs",
];
/// Those that are part of no such program: the lab's, and those of tests.
const OF_NO_PROGRAM: [&str; 2] = ["tests/src/lab", "tests/src/module_abi"];
/// Those of the VMM and the library's examples. Excludes the documents in the library's package, which are links.
const SOURCES: [&str; 3] = ["vmm-fdbox/src", "vmm-fdbox/examples", "vmm-example"];

/// The file in a target directory that records the sources from which its packages were last built.
const BUILT_FROM: &str = "built-from";

/// The built programs, keyed by their inputs: another checkout with the same sources finds them.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    cache: Cache,
    checkout: PathBuf,
    keys: Keys,
    /// Holds the programs that were requested as long as they are in use.
    held: Arc<Mutex<Vec<File>>>,
}

impl Programs {
    /// The programs of this checkout in its current state.
    pub(crate) fn of(cache: &Cache, checkout: &Path) -> Result<Self> {
        Ok(Self {
            cache: cache.clone(),
            checkout: checkout.to_owned(),
            keys: Keys::of(checkout)?,
            held: Arc::default(),
        })
    }

    /// Builds what is missing.
    pub(crate) fn build(&self, programs: &[Program]) -> Result<()> {
        for program in programs {
            let make = |dir: &Path| self.make(*program, dir);
            let key = self.keys.of_program(*program);
            self.cache.get(&program.kind(), key, make)?;
            let held = self.cache.hold(&program.kind(), key)?;
            self.held
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .push(held);
        }
        Ok(())
    }

    /// The path of a built program.
    pub(crate) fn path(&self, program: Program) -> PathBuf {
        let key = self.keys.of_program(program);
        let place = self.cache.place(&program.kind(), key);
        place.join(program.name)
    }

    /// Builds what changed, as cargo decides, in a target directory of this checkout.
    fn make(&self, program: Program, dir: &Path) -> Result<()> {
        let checkout = self.checkout.to_string_lossy();
        let target = KeyBuilder::new("target").text("dir", &checkout).build();
        let target = format!("target-{}", target.as_str());
        // Two builds of one program would use the same files there.
        let _lock = self.cache.lock(&target)?;
        let target = self.cache.dir(&target)?;
        let log = self.cache.dir("logs")?.join("programs.log");
        let mut progress = Progress::start(&format!("Program {}", program.kind()), None);
        self.forget_other_sources(&target, &log)?;
        let mut cargo = cargo(&self.checkout, "build", &target);
        if program.is_example {
            cargo.args(["--package", program.package, "--example", program.name]);
        } else {
            cargo.args(PACKAGES.iter().flat_map(|it| ["--package", it]));
            cargo.args(["--bin", program.name]);
        }
        if let Some(feature) = program.feature {
            let feature = format!("{}/{feature}", program.package);
            cargo.arg("--features").arg(feature);
        }
        command::counted(&mut cargo, &log, &mut progress)
            .with_context(|| format!("Build {} (a static build needs libc6-dev)", program.name))?;
        let mut built = target.join(TARGET).join("release");
        if program.is_example {
            built.push("examples");
        }
        built.push(program.name);
        std::fs::copy(&built, dir.join(program.name))
            .with_context(|| format!("Copy {}", built.display()))?;
        ensure!(
            Keys::of(&self.checkout)? == self.keys,
            "The sources changed while {} was built: run it again",
            program.name
        );
        progress.done();
        Ok(())
    }

    /// cargo compares file times, but older content can have newer times: packages last built from
    /// other sources are rebuilt. Their dependencies are kept.
    fn forget_other_sources(&self, target: &Path, log: &Path) -> Result<()> {
        let note = target.join(BUILT_FROM);
        let keys = self.keys.text();
        if std::fs::read_to_string(&note).is_ok_and(|built| built == keys) {
            return Ok(());
        }
        let mut clean = cargo(&self.checkout, "clean", target);
        clean.args(["vmm-fdbox", "vmm-example", "fdbox-lab"].map(|it| format!("--package={it}")));
        command::logged(&mut clean, log, |_| {}).context("Remove what was built before")?;
        std::fs::write(&note, keys).with_context(|| format!("Write {}", note.display()))
    }
}

/// cargo with an environment in which only what is in the key has an effect.
fn cargo(checkout: &Path, command: &str, target: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(checkout).arg(command);
    cargo.args(["--release", "--locked", "--target", TARGET]);
    cargo.arg("--target-dir").arg(target);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["CARGO_PROFILE_", "CARGO_BUILD_", "CARGO_TARGET_"];
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("RUSTFLAGS", RUSTFLAGS);
    cargo
}

/// The keys of the lab's own programs and of the others: a scenario that changes does not cause the VMM to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Keys {
    own: Key,
    others: Key,
}

impl Keys {
    fn of(checkout: &Path) -> Result<Self> {
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        rustc.current_dir(checkout).args(["--version", "--verbose"]);
        let compiler = command::output(&mut rustc)?;
        let linker = command::output(Command::new("cc").arg("--version"))
            .context("Ask for the linker's version (a static build needs gcc)")?;
        let key = |sources: &[&str]| -> Result<Key> {
            let mut key = KeyBuilder::new("program 3")
                .text("compiler", &compiler)
                .text("linker", &linker)
                .text("target", TARGET)
                .text("flags", RUSTFLAGS);
            for path in inputs(checkout, sources)? {
                let name = path.strip_prefix(checkout)?.to_string_lossy();
                key = key.text("name", &name).file(&path)?;
            }
            Ok(key.build())
        };
        Ok(Self {
            own: key(&OWN_SOURCES)?,
            others: key(&SOURCES)?,
        })
    }

    fn of_program(&self, program: Program) -> &Key {
        match program.package {
            OWN => &self.own,
            _ => &self.others,
        }
    }

    fn text(&self) -> String {
        format!("{} {}", self.own.as_str(), self.others.as_str())
    }
}

/// The files that a program with these sources is built from.
fn inputs(checkout: &Path, sources: &[&str]) -> Result<Vec<PathBuf>> {
    let mut inputs: Vec<_> = FILES.iter().map(|name| checkout.join(name)).collect();
    for name in sources {
        let path = checkout.join(name);
        match path.is_dir() {
            true => inputs.extend(crate::files::sources(&path)?),
            false => inputs.push(path),
        }
    }
    let others = OF_NO_PROGRAM.map(|name| checkout.join(name));
    inputs.retain(|path| !others.iter().any(|other| path.starts_with(other)));
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What a source file includes, except in its tests: by macro, or as a module at another path.
    fn included(source: &Path) -> Vec<PathBuf> {
        let text = fs::read_to_string(source).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let words = ["include_str!(", "include_bytes!(", "include!(", "#[path ="];
        let after = words.iter().flat_map(|word| text.split(word).skip(1));
        let quoted =
            after.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
        let dir = source.parent().unwrap();
        quoted
            .map(|name| dir.join(name).canonicalize().unwrap())
            .collect()
    }

    #[test]
    fn what_a_program_includes_is_part_of_its_key() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let checkout = checkout.canonicalize().unwrap();
        let mut found = 0;
        for sources in [&OWN_SOURCES[..], &SOURCES] {
            let inputs = inputs(&checkout, sources).unwrap();
            let is_source = |path: &&PathBuf| {
                let name = path.file_name().unwrap().to_string_lossy();
                path.extension().is_some_and(|it| it == "rs") && !name.contains("tests.rs")
            };
            for source in inputs.iter().filter(is_source) {
                for path in included(source) {
                    // Documents are part of the documentation alone.
                    if path.extension().is_some_and(|it| it == "md") {
                        continue;
                    }
                    assert!(inputs.contains(&path), "{path:?}, in {source:?}");
                    found += 1;
                }
            }
        }
        assert!(found >= 4, "the includes of dist.rs and kunit.rs");
    }

    #[test]
    fn a_scenario_is_no_reason_to_build_the_vmm() {
        let checkout = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = checkout.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        FILES.iter().for_each(|name| write(name, ""));
        OWN_SOURCES[2..].iter().for_each(|name| write(name, ""));
        let names = [
            "tests/src/scenarios/a.rs",
            "vmm-fdbox/src/a.rs",
            "vmm-fdbox/examples/a.rs",
        ];
        let others = [
            "vmm-example/src/a.rs",
            "vmm-example/dist/a",
            "tests/src/lab/a.rs",
        ];
        names.iter().chain(&others).for_each(|name| write(name, ""));
        let keys = || Keys::of(checkout.path()).unwrap();
        let before = keys();
        write("tests/src/lab/a.rs", "changed");
        assert_eq!(keys(), before);
        write("tests/src/scenarios/a.rs", "changed");
        let after = keys();
        assert_eq!(after.others, before.others);
        assert_ne!(after.own, before.own);
        write("vmm-fdbox/src/a.rs", "changed");
        assert_eq!(keys().own, after.own);
        assert_ne!(keys().others, after.others);
    }
}
