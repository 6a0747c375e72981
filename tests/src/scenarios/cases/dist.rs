//! The files that are installed with the VMM, run as a distribution runs them: in a host that has
//! just booted and has not loaded the module.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::command::RESET_GAP;
use serde_json::{Value, json};

use super::reports::healthy;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fleet::{Member, MemberSpec, read_report, update_all};
use crate::guest::{Ended, Updating, VMM};
use crate::{fdbox, memory, network};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "dist/initramfs-script",
        about: "with the boot script for Debian's initramfs a guest continues",
        host: HostKind::GuestsLateModule,
        stages: &[before, after_initramfs_script],
    },
    &Scenario {
        name: "dist/init-script",
        about: "with the script for a custom init a guest continues, but not one that was \
                left behind",
        host: HostKind::GuestsLateModule,
        stages: &[before_one_left_behind, after_init_script],
    },
];

const INITRAMFS_SCRIPT: &str =
    include_str!("../../../../vmm-example/dist/initramfs-tools/scripts/init-premount/vmm-example");
const INIT_SCRIPT: &str = include_str!("../../../../vmm-example/dist/init/resume.sh");
const NAME: &str = "vm0";
const LEFT: &str = "vm1";
/// Written to a drive when the operator was told that a guest is left behind.
const WARNED: [u8; 512] = [0x4c; 512];
/// The directory that both scripts use for reports.
const FOLDER: &str = "/run/vmm-example";

fn boot(name: &str, guests: u8) -> Result<Member> {
    let port = Arc::new(EventPort::open()?);
    let mut member = Member::start(MemberSpec::new(name, "guest_memfd", guests), &[], &port)?;
    member.wait_until_ready()?;
    healthy(&member.report()?)?;
    Ok(member)
}

/// From now on, gaps are caused by the update.
fn begin(cx: &Cx<'_>, member: &mut Member) -> Result<()> {
    member.tell(RESET_GAP)?;
    cx.value(&format!("witness {NAME}"), member.report()?)?;
    member.wait_for_beat()
}

fn before(cx: &Cx<'_>) -> Result<()> {
    let mut member = boot(NAME, 1)?;
    begin(cx, &mut member)?;
    let status = update_all(&[])?.stdin(Stdio::null()).status()?;
    bail!("The host was not updated: {status}")
}

/// Two guests, one of which cannot be sealed because its box's name is taken.
fn before_one_left_behind(cx: &Cx<'_>) -> Result<()> {
    let mut goes = boot(NAME, 2)?;
    let mut stays = boot(LEFT, 2)?;
    let in_the_way = fdbox::FdBox::create(LEFT)?;
    in_the_way.put(memory::memfd(c"other", 4096)?, "other")?;
    begin(cx, &mut goes)?;
    healthy(&stays.report()?)?;
    let mut update = Updating::start(&mut update_all(&["--not-ready", "leave", "--json"])?)?;
    let status = update.wait_for("a word of who is left", |line| line.contains("left-behind"))?;
    let status: Value = serde_json::from_str(&status)?;
    equal("Who is left behind", &status["guest"], &json!(LEFT))?;
    let message = status["message"].as_str().unwrap_or_default();
    let why = format!("{LEFT} is not ready and left behind");
    ensure!(message.contains(&why), "Not {why:?}: {message}");
    // The only thing that the next kernel finds unchanged.
    let drive = fs::File::options().write(true).open(network::drive(0))?;
    drive.write_all_at(&WARNED, 0)?;
    drive.sync_all()?;
    let ended = update.end()?;
    bail!("The host was not updated: {ended:?}")
}

/// With boxes for a module that is missing, no other home is looked for.
fn without_the_module() -> Result<()> {
    let ended = Ended::of(Command::new(VMM).args(["resume", "--all"]))?;
    ended.expect(1)?;
    let why = "The last kernel handed boxes over to FDBox, and fdbox.ko is not loaded: load it";
    ensure!(ended.text.contains(why), "Not {why:?}: {}", ended.text);
    Ok(())
}

fn after_initramfs_script(cx: &Cx<'_>) -> Result<()> {
    without_the_module()?;
    // What the hook adds to the initramfs.
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
    let mut found = [0; WARNED.len()];
    fs::File::open(network::drive(0))?.read_exact_at(&mut found, 0)?;
    ensure!(
        found == WARNED,
        "Nobody was warned that {LEFT} is left behind"
    );
    runs_on(cx, INIT_SCRIPT)?;
    let total = read_report(FOLDER, "total")?;
    equal("Guests that run", &total["resumed"], &json!(1))?;
    equal("The other one's box", fdbox::listed(LEFT)?.is_some(), false)?;
    let socket = Path::new(FOLDER).join(LEFT).join(LEFT);
    let socket = socket.with_extension("sock");
    equal("Its API socket", socket.exists(), false)
}

/// Runs a script on a host without any boxes yet; the guest must continue then.
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
