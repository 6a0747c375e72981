//! Thirty-two guests on one host go through one kexec together.
//!
//! The host's only CPU is emulated, and cannot run that many guests: most are paused once they have booted, arrive
//! paused, and continue a few at a time.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Result, bail};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::PAUSED;
use fdbox_lab::witness::command::RESET_GAP;
use serde_json::json;

use super::guests::tell_of;
use super::reports::healthy;
use super::{Cx, Scenario, privileges};
use crate::check::equal;
use crate::fleet::{Member, MemberSpec, read_report, resume_all, side_by_side, update_all};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "guests/thirty-two",
    about: "32 guests continue under a new kernel: 8 that run, and 24 that are paused",
    host: HostKind::LargeGuests,
    stages: &[before, after],
}];

const GUESTS: usize = 32;
/// How many of them run at a time.
const RUNNING: usize = 8;
const MIB: u32 = 64;
/// The directory of the reports.
const FOLDER: &str = "/run/reports";

fn names() -> impl Iterator<Item = String> {
    (0..GUESTS).map(|number| format!("vm{number}"))
}

/// Boots them one after the other, and pauses each.
fn boot(cx: &Cx<'_>) -> Result<Vec<Member>> {
    let port = Arc::new(EventPort::open()?);
    let mut members = Vec::new();
    for (name, kind) in names().zip(["guest_memfd", "memfd"].into_iter().cycle()) {
        let spec = MemberSpec {
            mib: MIB,
            ..MemberSpec::new(&name, kind, RUNNING as u8)
        };
        let mut member = Member::start(spec, &[], &port)?;
        member.wait_until_ready()?;
        member.wait_for_beat()?;
        let report = member.report()?;
        healthy(&report)?;
        if members.len() + RUNNING < GUESTS {
            // Its last report before the update.
            cx.value(&format!("witness {name}"), report)?;
            cx.value(&format!("{PAUSED} {name}"), true)?;
        }
        let vmm = privileges::vmm_status(&member.api())?;
        cx.value(&format!("vmm {name}"), vmm)?;
        member.command("pause")?.expect(0)?;
        members.push(member);
    }
    Ok(members)
}

fn before(cx: &Cx<'_>) -> Result<()> {
    let mut members = boot(cx)?;
    side_by_side(&mut members[GUESTS - RUNNING..], |member| {
        member.command("continue")?.expect(0)?;
        // From now on, gaps are caused by the update.
        member.tell(RESET_GAP)?;
        let report = member.report()?;
        healthy(&report)?;
        cx.value(&format!("witness {}", member.name), report)?;
        member.wait_for_beat()
    })?;
    let status = update_all(&[])?.stdin(Stdio::null()).status()?;
    bail!("The host was not updated: {status}")
}

fn after(cx: &Cx<'_>) -> Result<()> {
    resume_all(FOLDER, &[])?.expect(0)?;
    let port = Arc::new(EventPort::open()?);
    let attach = |name: String| Member::attach(&name, &port);
    let mut paused = names().map(attach).collect::<Result<Vec<_>>>()?;
    let total = read_report(FOLDER, "total")?;
    equal("Guests that run", &total["resumed"], &GUESTS.into())?;
    let running = paused.split_off(GUESTS - RUNNING);
    for (members, state) in [(&paused, "paused"), (&running, "running")] {
        for member in members {
            equal(&member.name, member.state()?, json!(state))?;
        }
    }
    check(cx, running)?;
    while !paused.is_empty() {
        let few = paused.split_off(paused.len().saturating_sub(RUNNING));
        for member in &few {
            member.command("continue")?.expect(0)?;
        }
        check(cx, few)?;
    }
    // No box is left.
    resume_all(FOLDER, &[])?.expect(0)
}

/// Checks guests that run, and powers them off.
fn check(cx: &Cx<'_>, mut members: Vec<Member>) -> Result<()> {
    side_by_side(&mut members, |member| {
        member.wait_for_beat()?;
        tell_of(cx, member, FOLDER)
    })?;
    members.into_iter().try_for_each(Member::power_off)
}
