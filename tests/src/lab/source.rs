//! The kernel's source: the pinned Debian package, or the tree in LINUX_SRC.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key, KeyBuilder};
use crate::command;
use crate::debian::field;
use crate::progress::Progress;
use crate::toolchain::Toolchain;

/// Number of files in the source, roughly: for the progress of unpacking.
const FILES: u64 = 102_350;
/// The file next to the source that contains its version.
const VERSION: &str = "version";

/// The use of another version is reported once per run.
static WARNED: Once = Once::new();

/// An unpacked kernel source, which must not be written to.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub dir: PathBuf,
    /// Identifies it: part of the key of everything built from it.
    pub key: Key,
}

/// The pin: tests/kernel/version.
#[derive(Debug, PartialEq, Eq)]
struct Pin {
    package: String,
    version: String,
    suite: String,
}

impl Pin {
    fn parse(text: &str) -> Result<Self> {
        let get = |name: &str| {
            let value = field(text, name).with_context(|| format!("kernel/version has no {name}="));
            value.map(str::to_owned)
        };
        Ok(Self {
            package: get("package")?,
            version: get("version")?,
            suite: get("suite")?,
        })
    }

    /// The key of this version's source, and so part of the keys of everything built from it.
    fn key_of(&self, version: &str) -> Key {
        KeyBuilder::new("source 1")
            .text("package", &self.package)
            .text("version", version)
            .build()
    }

    /// The message if the mirror only has another version.
    fn instead(&self, found: &str) -> String {
        let Self {
            package,
            version,
            suite,
        } = self;
        format!(
            "{suite} has no {package}={version} any more; the kernels are of {found}. For the pinned \
             one name its source tree in LINUX_SRC; for the new one pin it in tests/kernel/version"
        )
    }
}

impl Source {
    pub(crate) fn get(cache: &Cache, toolchain: &Toolchain, pin: &Path) -> Result<Self> {
        if let Some(dir) = std::env::var_os("LINUX_SRC") {
            return Self::of_tree(Path::new(&dir));
        }
        Self::pinned(cache, toolchain, pin)
    }

    /// The source that a file pins, whatever LINUX_SRC is.
    pub(crate) fn pinned(cache: &Cache, toolchain: &Toolchain, pin: &Path) -> Result<Self> {
        let pin = Pin::parse(&fs::read_to_string(pin).context("Read kernel/version")?)?;
        let key = pin.key_of(&pin.version);
        let dir = cache.get("source", &key, |dir| fetch(cache, toolchain, &pin, dir))?;
        // A source that was unpacked before the version was recorded is the pinned one.
        let found = fs::read_to_string(dir.join(VERSION)).ok();
        let key = match found.as_deref().map(str::trim) {
            Some(found) if found != pin.version => {
                WARNED.call_once(|| eprintln!("lab: {}", pin.instead(found)));
                pin.key_of(found)
            }
            _ => key,
        };
        Ok(Self {
            dir: dir.join("linux"),
            key,
        })
    }

    /// A developer's own tree: its files are not read one by one; changes are detected by its
    /// Makefile, its git head and its uncommitted changes.
    fn of_tree(dir: &Path) -> Result<Self> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("LINUX_SRC={}", dir.display()))?;
        if !dir.join("Kbuild").is_file() || !dir.join("arch/x86").is_dir() {
            bail!("LINUX_SRC={} is no kernel source tree", dir.display());
        }
        if dir.join(".config").exists() {
            bail!(
                "LINUX_SRC={} was built in: run `make mrproper` there, the lab builds elsewhere",
                dir.display()
            );
        }
        let git = |arguments: &[&str]| {
            let mut git = std::process::Command::new("git");
            command::output(git.arg("-C").arg(&dir).args(arguments)).unwrap_or_default()
        };
        let key = KeyBuilder::new("tree 1")
            .text("dir", &dir.to_string_lossy())
            .file(&dir.join("Makefile"))?
            .text("head", &git(&["rev-parse", "HEAD"]))
            .text("changes", &git(&["diff", "HEAD"]))
            .build();
        Ok(Self { dir, key })
    }
}

fn fetch(cache: &Cache, toolchain: &Toolchain, pin: &Pin, dir: &Path) -> Result<()> {
    let log = cache.dir("logs")?.join("source.log");
    let mut progress = Progress::start("Kernel source", Some(FILES));
    let resolv = Path::new("/etc/resolv.conf");
    if resolv.exists() {
        fs::copy(resolv, toolchain.root().join("etc/resolv.conf"))?;
    }
    let mounts = [(dir, "/lab/work")];
    let mut run = |script: &str, arguments: &[&str]| {
        let mut sh = toolchain.command(&mounts, "sh");
        sh.args(["-ec", script, "sh"]).args(arguments);
        command::counted(&mut sh, &log, &mut progress)
    };
    run("exec 2>&1; apt-get update", &[]).context("Read the package lists")?;
    let exact = format!("{}={}", pin.package, pin.version);
    const DOWNLOAD: &str = "cd /lab/work; apt-get download \"$1\"";
    if run(DOWNLOAD, &[&exact]).is_err() {
        run(DOWNLOAD, &[&pin.package]).context("Download the kernel source")?;
    }
    const UNPACK: &str = "cd /lab/work; dpkg-deb -f ./*.deb Version >\"$1\"; dpkg-deb -x ./*.deb deb; rm ./*.deb; mkdir linux; \
        tar -xvf deb/usr/src/linux-source-*.tar.* -C linux --strip-components=1; rm -r deb";
    run(UNPACK, &[VERSION]).context("Unpack the kernel source")?;
    progress.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_in_the_tree_are_complete() {
        for text in [
            include_str!("../../kernel/version"),
            include_str!("../../kernel/older-version"),
        ] {
            let pin = Pin::parse(text).unwrap();
            assert!(pin.package.starts_with("linux-source-"));
            let version = pin.package.trim_start_matches("linux-source-");
            assert!(pin.version.starts_with(version));
            assert!(pin.suite.starts_with(crate::toolchain::SUITE));
        }
        assert!(Pin::parse("package=x\nversion=1\n").is_err());
    }

    #[test]
    fn another_version_is_named_and_has_a_key_of_its_own() {
        let pin = Pin::parse("package=linux-source-7\nversion=7.3-1\nsuite=sid\n").unwrap();
        assert_ne!(pin.key_of("7.4-1").as_str(), pin.key_of("7.3-1").as_str());
        let message = pin.instead("7.4-1");
        for word in [
            "linux-source-7=7.3-1",
            "7.4-1",
            "LINUX_SRC",
            "kernel/version",
        ] {
            assert!(message.contains(word), "{message}");
        }
    }
}
