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

const fn program(package: &'static str, name: &'static str) -> Program {
    Program {
        package,
        name,
        feature: None,
        is_example: false,
    }
}

pub(crate) const INIT: Program = program("fdbox-lab", "lab-init");
pub(crate) const SCENARIOS: Program = program("fdbox-lab", "lab-scenarios");
pub(crate) const WITNESS: Program = program("fdbox-lab", "lab-witness");
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
const PACKAGES: [&str; 2] = ["fdbox-lab", "vmm-example"];

/// The sources of all programs, except for the compiler and its flags; of this package everything
/// but the lab itself. Excludes the documents in the library's package, which are links.
const SOURCES: [&str; 3] = ["vmm-fdbox/src", "vmm-fdbox/examples", "vmm-example"];
const OWN_SOURCES: &str = "tests/src";
const LAB: &str = "lab";
const FILES: [&str; 5] = [
    "Cargo.toml",
    "vmm-fdbox/Cargo.toml",
    "Cargo.lock",
    ".cargo/config.toml",
    "tests/Cargo.toml",
];

/// The file in a target directory that records the sources from which its packages were last built.
const BUILT_FROM: &str = "built-from";

/// The built programs, keyed by their inputs: another checkout with the same sources finds them.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    cache: Cache,
    checkout: PathBuf,
    key: Key,
    /// Holds the programs that were requested as long as they are in use.
    held: Arc<Mutex<Vec<File>>>,
}

impl Programs {
    /// The programs of this checkout in its current state.
    pub(crate) fn of(cache: &Cache, checkout: &Path) -> Result<Self> {
        Ok(Self {
            cache: cache.clone(),
            checkout: checkout.to_owned(),
            key: key(checkout)?,
            held: Arc::default(),
        })
    }

    /// Builds what is missing.
    pub(crate) fn build(&self, programs: &[Program]) -> Result<()> {
        for program in programs {
            let make = |dir: &Path| self.make(*program, dir);
            self.cache.get(&program.kind(), &self.key, make)?;
            let held = self.cache.hold(&program.kind(), &self.key)?;
            self.held
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .push(held);
        }
        Ok(())
    }

    /// The path of a built program.
    pub(crate) fn path(&self, program: Program) -> PathBuf {
        let place = self.cache.place(&program.kind(), &self.key);
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
            key(&self.checkout)? == self.key,
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
        if std::fs::read_to_string(&note).is_ok_and(|built| built == self.key.as_str()) {
            return Ok(());
        }
        let mut clean = cargo(&self.checkout, "clean", target);
        clean.args(["vmm-fdbox", "vmm-example", "fdbox-lab"].map(|it| format!("--package={it}")));
        command::logged(&mut clean, log, |_| {}).context("Remove what was built before")?;
        std::fs::write(&note, self.key.as_str())
            .with_context(|| format!("Write {}", note.display()))
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

fn key(checkout: &Path) -> Result<Key> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.current_dir(checkout).args(["--version", "--verbose"]);
    let compiler = command::output(&mut rustc)?;
    let linker = command::output(Command::new("cc").arg("--version"))
        .context("Ask for the linker's version (a static build needs gcc)")?;
    let mut key = KeyBuilder::new("program 2")
        .text("compiler", &compiler)
        .text("linker", &linker)
        .text("target", TARGET)
        .text("flags", RUSTFLAGS);
    for name in FILES {
        key = key.text("name", name).file(&checkout.join(name))?;
    }
    for name in SOURCES {
        key = key.text("tree", name).tree(&checkout.join(name))?;
    }
    let own = checkout.join(OWN_SOURCES);
    for path in crate::files::sources(&own)? {
        let name = path.strip_prefix(&own)?;
        if !name.starts_with(LAB) {
            key = key.text("name", &name.to_string_lossy()).file(&path)?;
        }
    }
    Ok(key.build())
}
