//! Two guests, each with a passed-through device, that are updated by one kexec.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use fdbox_lab::device::{FRAMES, NOTED};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::command;

use super::guest::port;
use super::guests::tell_of;
use super::reports::healthy;
use super::{Cx, Scenario, privileges};
use crate::check::equal;
use crate::fleet::{Member, MemberSpec, resume_all, side_by_side, update_all};
use crate::guest::{Ended, VMM};
use crate::passthrough::{pci, registers};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "passthrough/two-guests",
    about: "two guests' cards receive through one kexec: no guest misses a frame",
    host: HostKind::GuestsPassthrough,
    stages: &[before, after],
}];

const GUESTS: [&str; 2] = ["g0", "g1"];
/// The directory of the reports.
const FOLDER: &str = "/run/reports";

/// Each guest with its device.
fn pairs() -> Result<Vec<(&'static str, PathBuf)>> {
    let nics = pci::nics()?;
    equal("Cards of the host", nics.len(), GUESTS.len())?;
    Ok(GUESTS.into_iter().zip(nics).collect())
}

fn note_all(cx: &Cx<'_>) -> Result<()> {
    for (name, place) in pairs()? {
        cx.value(&format!("{NOTED} {name}"), registers::note_card(&place)?)?;
    }
    Ok(())
}

fn before(cx: &Cx<'_>) -> Result<()> {
    let port = port()?;
    let mut members = Vec::new();
    for (name, place) in pairs()? {
        let device = pci::to_pass_through(&place)?;
        let count = GUESTS.len() as u8;
        // The other kind of memory cannot be mapped for a device.
        let member = Member::start(MemberSpec::new(name, "memfd", count), &device, &port)?;
        // One after the other: booting them in parallel would not be faster.
        member.wait_until_ready()?;
        members.push(member);
    }
    for member in &mut members {
        member.console.wait_for_frames(None)?;
    }
    upgrade(&members[0])?;
    note_all(cx)?;
    for member in &mut members {
        // From now on, gaps are caused by the update.
        member.tell(command::RESET_GAP)?;
        let report = member.report()?;
        healthy(&report)?;
        cx.value(&format!("witness {}", member.name), report)?;
        let vmm = privileges::vmm_status(&member.api())?;
        cx.value(&format!("vmm {}", member.name), vmm)?;
    }
    let status = update_all(&[])?.stdin(Stdio::null()).status()?;
    bail!("The host was not updated: {status}")
}

/// Replaces a guest's VMM by another one that runs as the guest's user. That user cannot see
/// whether a device could go through a kexec, but the update is not blocked: root checks that.
fn upgrade(member: &Member) -> Result<()> {
    let mut update = Command::new(VMM);
    update.args(["live-update", "--binary", VMM, "--api-socket"]);
    Ended::of(update.arg(member.api()))?.expect(0)?;
    let dry_run = Ended::of(&mut update_all(&["--dry-run"])?)?;
    dry_run.expect(0)?;
    let is_named = dry_run.text.contains("0000:");
    equal("That a device is in the way", is_named, false)
}

fn after(cx: &Cx<'_>) -> Result<()> {
    // Nothing has accessed the devices yet, and the guests are paused: all registers are as the
    // drivers left them.
    note_all(cx)?;
    resume_all(FOLDER, &[])?.expect(0)?;
    let port = port()?;
    let mut members = Vec::new();
    for name in GUESTS {
        members.push(Member::attach(name, &port)?);
    }
    side_by_side(&mut members, |member| tell_of(cx, member, FOLDER))?;
    for member in &mut members {
        let frames = member.console.wait_for_frames(None)?;
        let frames = member.console.wait_for_frames(Some(&frames))?;
        cx.value(&format!("{FRAMES} {}", member.name), frames)?;
    }
    note_all(cx)?;
    members.into_iter().try_for_each(Member::power_off)
}
