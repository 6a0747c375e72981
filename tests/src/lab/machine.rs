//! Whether this machine can build and run the lab, and how to fix it if not.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::command;
use crate::debian::field;
use crate::progress::Progress;

/// Disk space for the toolchain, four kernels, their objects and the programs.
const NEEDED_GIB: u64 = 14;

/// The requirements for building or running anything.
pub(crate) fn check() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("The lab emulates an x86-64 host with the same machine's tools: use an x86-64 one");
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "The lab mounts and uses chroot, which only root may: run it as root \
             (`sudo -E env PATH=\"$PATH\" cargo lab ...`), or in a virtual machine of your own"
        );
    }
    for (program, package) in [("unshare", "util-linux"), ("setpriv", "util-linux")] {
        if command::find(program).is_none() {
            bail!("{program} is not in the PATH: install the package {package}");
        }
    }
    let unshare = Command::new("unshare").args(["--mount", "true"]).output();
    if !unshare.is_ok_and(|output| output.status.success()) {
        bail!(
            "No mount namespace can be made here, as in a container without privileges: run the \
             lab on the machine itself or in a container with CAP_SYS_ADMIN"
        );
    }
    Ok(())
}

/// The requirements for building the toolchain and the kernels.
pub(crate) fn check_can_build(cache: &Cache) -> Result<()> {
    let stat = rustix::fs::statvfs(cache.root()).context("Ask for the free disk space")?;
    let free_gib = stat.f_bavail * stat.f_frsize / (1 << 30);
    if free_gib < NEEDED_GIB {
        bail!(
            "{} has {free_gib} GiB free, the lab needs {NEEDED_GIB}: make room, or point \
             FDBOX_LAB_CACHE to a larger disk",
            cache.root().display()
        );
    }
    Ok(())
}

/// mmdebstrap makes the toolchain; on a Debian-like machine it is installed if it is missing.
pub(crate) fn install_mmdebstrap(cache: &Cache) -> Result<()> {
    if command::find("mmdebstrap").is_some() {
        return Ok(());
    }
    if command::find("apt-get").is_none() {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = field(&release, "PRETTY_NAME").unwrap_or("This system");
        bail!(
            "{name} has no apt-get: install mmdebstrap by hand (it is packaged for most systems)"
        );
    }
    let log = cache.dir("logs")?.join("mmdebstrap.log");
    let progress = Progress::start("Installing mmdebstrap", None);
    for arguments in [
        &["update"][..],
        &["install", "-y", "--no-install-recommends", "mmdebstrap"],
    ] {
        install(arguments, &log).context(
            "Install mmdebstrap. Install it by hand (apt-get install mmdebstrap) and try again",
        )?;
    }
    progress.done();
    Ok(())
}

fn install(arguments: &[&str], log: &Path) -> Result<()> {
    let mut apt = Command::new("apt-get");
    // A machine that has just booted installs its own updates first and holds dpkg's lock.
    apt.args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command::logged(&mut apt, log, |_| {})
}
