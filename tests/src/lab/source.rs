//! The kernel's source: the pinned Debian package, or the tree that LINUX_SRC names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key, KeyBuilder};
use crate::command;
use crate::debian::field;
use crate::progress::Progress;
use crate::toolchain::Toolchain;

/// Files in the source, about: what unpacking is measured against.
const FILES: u64 = 102_350;

/// An unpacked kernel source, not to be written to.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub dir: PathBuf,
    /// What it is: part of the key of everything built from it.
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
}

impl Source {
    pub(crate) fn get(cache: &Cache, toolchain: &Toolchain, pin: &Path) -> Result<Self> {
        if let Some(dir) = std::env::var_os("LINUX_SRC") {
            return Self::of_tree(Path::new(&dir));
        }
        let pin = Pin::parse(&fs::read_to_string(pin).context("Read kernel/version")?)?;
        let key = KeyBuilder::new("source 1")
            .text("package", &pin.package)
            .text("version", &pin.version)
            .build();
        let dir = cache.get("source", &key, |dir| fetch(cache, toolchain, &pin, dir))?;
        Ok(Self {
            dir: dir.join("linux"),
            key,
        })
    }

    /// A tree of the developer's own: its files are not read one by one; what changes in it is
    /// seen by its Makefile, its git head and its uncommitted changes.
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
        eprintln!(
            "{} is gone from {}: taking its newest version",
            exact, pin.suite
        );
        run(DOWNLOAD, &[&pin.package]).context("Download the kernel source")?;
    }
    const UNPACK: &str = "cd /lab/work; dpkg-deb -x ./*.deb deb; rm ./*.deb; mkdir linux; \
        tar -xvf deb/usr/src/linux-source-*.tar.* -C linux --strip-components=1; rm -r deb";
    run(UNPACK, &[]).context("Unpack the kernel source")?;
    progress.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_in_the_tree_is_complete() {
        let text = include_str!("../../kernel/version");
        let pin = Pin::parse(text).unwrap();
        assert!(pin.package.starts_with("linux-source-"));
        assert!(
            pin.version
                .starts_with(pin.package.trim_start_matches("linux-source-"))
        );
        assert!(pin.suite.starts_with(crate::toolchain::SUITE));
        assert!(Pin::parse("package=x\nversion=1\n").is_err());
    }
}
