//! A Debian host with its own kernel and systemd, booted in QEMU, in which packages are installed, used and removed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, KeyBuilder};
use crate::guest::GuestFiles;
use crate::lab::Lab;
use crate::progress::Progress;
use crate::{command, debian, files, machine, programs, run, toolchain, tsc};

/// What is in the host beside Debian's minimum. Its kernel is the one for clouds, which has KVM and is small.
const PACKAGES: &[&str] = &[
    "initramfs-tools",
    "kexec-tools",
    "kmod",
    "linux-image-cloud-amd64",
    "passwd",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
];

/// What DKMS needs to build the module, in a host that has it.
const COMPILERS: &[&str] = &["bindgen", "dkms", "gcc", "libelf1t64", "make", "rustc"];

/// Lines that mmdebstrap prints, roughly.
const LINES: u64 = 700;
const CMDLINE: &str = "console=ttyS0 root=/dev/vda rw tsc=reliable no_timer_check loglevel=4";
/// Runs its arguments with a higher priority than the machine's other work, and interrupts the host now and then with a byte
/// that nothing reads: see the quirks in docs/testing.md, and nudge.rs.
const NUDGED: &str = "while sleep 2; do echo; done | nice -n -15 \"$@\"";
/// What the test in the host prints last.
const DONE: &str = "LAB-DONE";
const FAILED: &str = "LAB-FAILED";

/// The kinds of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// With compilers.
    Builds,
}

impl Kind {
    fn packages(self) -> Vec<&'static str> {
        match self {
            Self::Plain => PACKAGES.to_vec(),
            Self::Builds => [PACKAGES, COMPILERS].concat(),
        }
    }

    fn image_mib(self) -> u64 {
        match self {
            Self::Plain => 1200,
            Self::Builds => 3000,
        }
    }

    /// How long the host may run, in seconds.
    fn limit(self) -> &'static str {
        match self {
            Self::Plain => "1200",
            Self::Builds => "3600",
        }
    }
}

/// The host's root file system, as Debian installs it.
fn root(cache: &Cache, kind: Kind) -> Result<PathBuf> {
    let packages = kind.packages();
    let key = KeyBuilder::new("debian-host 1")
        .text("suite", toolchain::SUITE)
        .text("packages", &packages.join(","))
        .build();
    let dir = cache.get("debian-host", &key, |dir| {
        machine::install_mmdebstrap(cache)?;
        let log = cache.dir("logs")?.join("debian-host.log");
        let mut progress = Progress::start("Debian host", Some(LINES));
        let mut mmdebstrap = debian::bootstrap(toolchain::SUITE, &packages, &dir.join("root"));
        command::counted(&mut mmdebstrap, &log, &mut progress).context("Make a Debian host")?;
        progress.done();
        Ok(())
    })?;
    Ok(dir.join("root"))
}

/// Boots the host with these packages, and runs a script from packaging/lab/host at each of its boots.
pub(super) fn test(
    lab: &Lab,
    test: &str,
    kind: Kind,
    script: &str,
    packages: &[PathBuf],
) -> Result<()> {
    let dir = run::folder(&lab.cache, &format!("package-{test}"))?;
    let root = root(&lab.cache, kind)?;
    let boot = |name: &str| -> Result<PathBuf> {
        let mut entries = fs::read_dir(root.join("boot"))?.flatten();
        let found = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(name));
        Ok(found
            .with_context(|| format!("There is no {name} in /boot"))?
            .path())
    };
    fs::copy(boot("vmlinuz-")?, dir.join("vmlinuz"))?;
    fs::copy(boot("initrd.img-")?, dir.join("initrd"))?;
    populate(lab, &root, script, packages, &dir.join("root"))?;
    image(&dir, kind.image_mib())?;
    let console = dir.join("console.log");
    let progress = Progress::start("Debian host", None);
    let run = command::logged(&mut qemu(lab, &dir, kind.limit()), &console, |_| {});
    fs::remove_file(dir.join("root.img"))?;
    progress.done();
    run.with_context(|| format!("Boot a Debian host: see {}", console.display()))?;
    judge(&String::from_utf8_lossy(&fs::read(&console)?), &console)
}

fn judge(text: &str, console: &Path) -> Result<()> {
    let mut lines = text.lines().map(str::trim);
    let verdict = lines.find(|line| *line == DONE || line.starts_with(FAILED));
    match verdict {
        Some(DONE) => Ok(()),
        verdict => bail!(
            "{}: see {}",
            verdict.unwrap_or("The test in the host did not end"),
            console.display()
        ),
    }
}

/// Copies the host's root file system, and puts the test into the copy.
fn populate(lab: &Lab, root: &Path, script: &str, packages: &[PathBuf], copy: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    command::output(cp.args(["-a", "--reflink=auto"]).arg(root).arg(copy))?;
    let place = copy.join("lab");
    files::copy_sources(&lab.checkout.join("tests/packaging/lab/host"), &place)?;
    fs::rename(place.join(script), place.join("test"))?;
    let packages_here = place.join("packages");
    fs::create_dir(&packages_here)?;
    for package in packages {
        let name = package.file_name().context("A package is a file")?;
        fs::copy(package, packages_here.join(name))?;
    }
    let programs = lab.programs(&[programs::VMM, programs::WITNESS])?;
    fs::create_dir(place.join("guest"))?;
    for (file, name) in GuestFiles::get(lab, &programs)?.of_stage(0) {
        if let Some(name) = name.strip_prefix("/guest/") {
            fs::copy(file, place.join("guest").join(name))?;
        }
    }
    let units = copy.join("etc/systemd/system");
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    symlink("/lab/lab.service", units.join("lab.service"))?;
    symlink("../lab.service", wanted.join("lab.service"))?;
    symlink("/dev/null", units.join("serial-getty@ttyS0.service"))?;
    Ok(())
}

/// Makes the host's disk of its root file system.
fn image(dir: &Path, mib: u64) -> Result<()> {
    let copy = dir.join("root");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-d"]).arg(&copy);
    mke2fs.arg(dir.join("root.img")).arg(format!("{mib}M"));
    command::output(&mut mke2fs).context("Make a disk (mke2fs is in e2fsprogs)")?;
    Ok(fs::remove_dir_all(&copy)?)
}

fn qemu(lab: &Lab, dir: &Path, limit: &str) -> Command {
    let mut qemu = lab.toolchain.command(&[(dir, "/lab/image")], "sh");
    qemu.args(["-c", NUDGED, "sh", "timeout", limit, "qemu-system-x86_64"]);
    qemu.args(["-nodefaults", "-no-reboot"]);
    qemu.args([
        "-display", "none", "-serial", "stdio", "-smp", "1", "-m", "2048",
    ]);
    qemu.args(["-machine", "q35,kernel-irqchip=split,hpet=off"]);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "EPYC-v4,+svm,+npt"]);
    qemu.args([
        "-kernel",
        "/lab/image/vmlinuz",
        "-initrd",
        "/lab/image/initrd",
    ]);
    let cmdline = format!("{CMDLINE} tsc_early_khz={}", tsc::khz());
    qemu.args(["-append", &cmdline]);
    qemu.args(["-device", "virtio-blk-pci,drive=root"]);
    qemu.args([
        "-drive",
        "file=/lab/image/root.img,format=raw,if=none,id=root",
    ]);
    qemu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_the_host_decides() {
        let judge = |text| judge(text, Path::new("log")).map_err(|error| error.to_string());
        assert!(judge("x\r\n+ echo LAB-DONE\r\nLAB-DONE\r\n[1.0] reboot\r\n").is_ok());
        let failed = judge("+ fail a\r\nLAB-FAILED: something is left\r\n").unwrap_err();
        assert!(failed.contains("something is left"), "{failed}");
        let silent = judge("+ echo LAB-DONE\n").unwrap_err();
        assert!(silent.contains("did not end"), "{silent}");
    }
}
