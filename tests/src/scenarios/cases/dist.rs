//! What is installed beside the VMM, run as a distribution runs it: in a host that has just booted and
//! has not loaded the module.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::command::RESET_GAP;

use super::guest::healthy;
use super::{Cx, Scenario};
use crate::fdbox;
use crate::fleet::{Member, read_report, update_all};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "dist/initramfs-script",
        about: "the boot script for Debian's initramfs runs a guest on",
        host: HostKind::GuestsLateModule,
        stages: &[before, after_initramfs_script],
    },
    &Scenario {
        name: "dist/init-script",
        about: "the script for an init of one's own runs a guest on",
        host: HostKind::GuestsLateModule,
        stages: &[before, after_init_script],
    },
];

const INITRAMFS_SCRIPT: &str =
    include_str!("../../../../vmm-example/dist/initramfs-tools/scripts/init-premount/vmm-example");
const INIT_SCRIPT: &str = include_str!("../../../../vmm-example/dist/init/resume.sh");
const NAME: &str = "vm0";
/// Where both scripts have the reports go.
const FOLDER: &str = "/run/vmm-example";

fn before(cx: &Cx<'_>) -> Result<()> {
    let port = Arc::new(EventPort::open()?);
    let mut member = Member::start(NAME, "guest_memfd", None, 1, &[], &port)?;
    member.wait_until_ready()?;
    healthy(&member.report()?)?;
    member.tell(RESET_GAP)?;
    cx.value(&format!("witness {NAME}"), member.report()?)?;
    let status = update_all(&[])?.stdin(Stdio::null()).status()?;
    bail!("The host was not updated: {status}")
}

fn after_initramfs_script(cx: &Cx<'_>) -> Result<()> {
    // What the hook puts into the initramfs.
    fs::create_dir_all("/usr/bin")?;
    symlink("/bin/vmm-example", "/usr/bin/vmm-example").context("Install the VMM")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let modules = Path::new("/lib/modules").join(release.trim());
    fs::create_dir_all(&modules)?;
    fs::copy("/lib/modules/fdbox.ko", modules.join("fdbox.ko"))?;
    fs::write(modules.join("modules.dep"), "fdbox.ko:\n")?;
    runs_on(cx, INITRAMFS_SCRIPT)
}

fn after_init_script(cx: &Cx<'_>) -> Result<()> {
    runs_on(cx, INIT_SCRIPT)
}

/// Runs a script in a host that knows nothing of boxes yet; the guest must run on then.
fn runs_on(cx: &Cx<'_>, script: &str) -> Result<()> {
    ensure!(fdbox::control().is_err(), "The module is loaded already");
    fs::write("/tmp/script", script)?;
    let status = Command::new("/bin/sh").arg("/tmp/script").status()?;
    ensure!(status.success(), "The script ended with {status}");
    let port = Arc::new(EventPort::open()?);
    let mut member = Member::attach(NAME, &port)?;
    member.wait_for_beat()?;
    let report = member.report()?;
    healthy(&report)?;
    cx.value(&format!("witness {NAME}"), report)?;
    cx.value(&format!("resume {NAME}"), read_report(FOLDER, NAME)?)?;
    member.power_off()
}
