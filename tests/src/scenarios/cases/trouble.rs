//! Guests in all states, and VMMs that hang or are killed, during the update of a fleet: trouble
//! with one of them does not affect the others.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Child;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::{Report, WitnessEvent, command};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};

use super::guests::{boot_some, tell_of};
use super::reports::{healthy, same_guest};
use super::{Cx, Scenario, privileges};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::fleet::{Member, read_report, resume_all, side_by_side, update_all};
use crate::guest::{self, READY_LIMIT};
use crate::{fdbox, host, memory, uapi};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "guests/trouble",
    about: "one guest is paused, one resets, the VMM of one is stopped at each step and \
                killed at the jump: no other guest is affected",
    host: HostKind::Guests,
    stages: &[before, after],
}];

/// The directory of the reports.
const FOLDER: &str = "/run/reports";
/// The name of the box with data for the second half in the next kernel.
const NOTE: &str = "note";

/// The guests: nothing is wrong with the first one.
struct Guests {
    well: Member,
    paused: Member,
    resets: Member,
    hangs: Member,
}

impl Guests {
    fn of(members: Vec<Member>) -> Result<Self> {
        match <[Member; 4]>::try_from(members) {
            Ok([well, paused, resets, hangs]) => Ok(Self {
                well,
                paused,
                resets,
                hangs,
            }),
            Err(members) => bail!("There are {} guests", members.len()),
        }
    }
}

/// A coordinator that stops itself, as by SIGSTOP, at the given steps.
struct Coordinator {
    process: Child,
    pid: Pid,
}

impl Coordinator {
    fn start(arguments: &[&str]) -> Result<Self> {
        let process = update_all(arguments)?.spawn()?;
        let pid = Pid::from_raw(process.id() as i32).context("A process has a number")?;
        Ok(Self { process, pid })
    }

    fn wait_until_stopped(&self) -> Result<()> {
        let (_, status) = waitpid(Some(self.pid), WaitOptions::UNTRACED)?.context("A status")?;
        ensure!(status.stopped(), "The coordinator ended: {status:?}");
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::CONT)?)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // Both fail only if it is already gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn before(cx: &Cx<'_>) -> Result<()> {
    let mut members = boot_some(4)?;
    let first = side_by_side(&mut members, Member::report)?;
    let mut guests = Guests::of(members)?;
    guest::command("pause", &guests.paused.api())?.expect(0)?;
    // Sealed or not, paused or not: a VMM that hangs is reported, and no other guest is affected.
    for (step, status) in [("preflight", 10), ("seal", 11), ("pause", 11)] {
        hang(&mut guests, step, status).with_context(|| format!("Stopped at {step}"))?;
        // A guest that rolled back late may leave an empty box: the next update uses it.
        for left in fdbox::boxes()? {
            equal("The state of a box", left.state, uapi::STATE_OPEN)?;
        }
        all_are_as_before(&mut guests, &first, step != "preflight")?;
    }
    guests.well.tell(command::RESET_GAP)?;
    guests.well.wait_for_beat()?;
    cx.value("witness vm0", guests.well.report()?)?;
    cx.value("vmm vm0", privileges::vmm_status(&guests.well.api())?)?;
    leave_note(&[&first[1], &first[3]])?;
    jump(&mut guests)
}

/// An update in which one guest resets after all have reported that they are ready, and one VMM
/// stops responding then.
fn hang(guests: &mut Guests, step: &str, status: i32) -> Result<()> {
    let limits = ["--prepare-timeout", "3", "--pause-timeout", "2"];
    if step == "preflight" {
        // It does not even report that it exists.
        let _stopped = guests.hangs.stop()?;
        let ended = guest::Ended::of(&mut update_all(&limits)?)?;
        return ended.expect(status);
    }
    let coordinator = Coordinator::start(&[&limits[..], &["--stop-at", step]].concat())?;
    coordinator.wait_until_stopped()?;
    guests.resets.tell(command::RESET)?;
    let stopped = guests.hangs.stop()?;
    coordinator.go_on()?;
    let mut coordinator = coordinator;
    let ended = coordinator.process.wait()?;
    equal("The exit status", ended.code(), Some(status))?;
    // It boots again here when the update is over.
    let ready = |event| matches!(event, WitnessEvent::Ready { .. }).then_some(());
    guests.resets.console.wait("pattern", READY_LIMIT, ready)?;
    // While the other one still hangs.
    guests.well.wait_for_beat()?;
    drop(stopped);
    // It completes its last request, learns that the coordinator is gone, and rolls back.
    host::until("It has rolled back", || {
        Ok(state(&guests.hangs)? == "running")
    })
}

fn all_are_as_before(guests: &mut Guests, first: &[Report], was_reset: bool) -> Result<()> {
    for (member, before) in [(&mut guests.well, 0), (&mut guests.hangs, 3)] {
        member.wait_for_beat()?;
        same_guest(&first[before], &member.report()?)?;
    }
    is_paused(&guests.paused)?;
    let report = guests.resets.report()?;
    healthy(&report)?;
    let rebooted = report.boot_id != first[2].boot_id;
    equal("That it booted again", rebooted, was_reset)
}

fn state(member: &Member) -> Result<Value> {
    Ok(guest::status(Some(&member.api()))?["state"].clone())
}

fn is_paused(member: &Member) -> Result<()> {
    equal("The state", state(member)?, json!("paused"))
}

/// The update that succeeds: one guest resets when all are sealed; when all are paused, one VMM is
/// killed and one stopped.
fn jump(guests: &mut Guests) -> Result<()> {
    let coordinator = Coordinator::start(&["--order", "vm2,vm0", "--stop-at", "pause,jump"])?;
    coordinator.wait_until_stopped()?;
    guests.resets.tell(command::RESET)?;
    coordinator.go_on()?;
    coordinator.wait_until_stopped()?;
    guests.hangs.kill()?;
    let _stopped = guests.well.stop()?;
    coordinator.go_on()?;
    let mut coordinator = coordinator;
    bail!("The host was not updated: {:?}", coordinator.process.wait())
}

fn leave_note(reports: &[&Report]) -> Result<()> {
    let mut file = memory::memfd(c"note", 0)?;
    serde_json::to_writer(&mut file, reports)?;
    file.flush()?;
    let note = FdBox::create(NOTE)?;
    note.put(file, NOTE)?;
    note.seal()
}

fn read_note() -> Result<Vec<Report>> {
    let note = FdBox::open(NOTE)?;
    note.unseal()?;
    let mut file: File = memory::file(note.get(NOTE)?);
    std::io::Seek::rewind(&mut file)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    note.delete()?;
    Ok(serde_json::from_str(&text)?)
}

fn after(cx: &Cx<'_>) -> Result<()> {
    let first = read_note()?;
    resume_all(FOLDER, &[])?.expect(0)?;
    let port = Arc::new(EventPort::open()?);
    let attach = |name| Member::attach(name, &port);
    let mut members = ["vm0", "vm1", "vm3"]
        .into_iter()
        .map(attach)
        .collect::<Result<Vec<_>>>()?;
    let total = read_report(FOLDER, "total")?;
    equal("Guests that run", &total["resumed"], &json!(4))?;
    members[0].wait_for_beat()?;
    tell_of(cx, &mut members[0], FOLDER)?;

    is_paused(&members[1])?;
    guest::command("continue", &members[1].api())?.expect(0)?;
    members[1].wait_for_beat()?;
    same_guest(&first[0], &members[1].report()?)?;

    members[2].wait_for_beat()?;
    same_guest(&first[1], &members[2].report()?)?;

    // The reset takes effect here, but there is no kernel to boot: so the guest ends.
    let api = members[0].api().with_file_name("vm2.sock");
    host::until("The guest that reset is over", || Ok(!api.exists()))?;
    members.into_iter().try_for_each(Member::power_off)
}
