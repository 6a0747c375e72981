//! A new VMM that hangs at each step, and an old one that is killed during the blackout: the state
//! of the box determines which VMM has the guest, and the guest runs in only one place.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::Report;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::guest::{port, spec};
use super::reports::same_guest;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::{Ended, Guest, Runner, Updating, VMM};
use crate::{fdbox, host};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "upgrade/hung",
        about: "a new VMM is stopped at each step: it is killed if it does not have the \
                guest, and waited for if it does",
        host: HostKind::GuestOneBoot,
        stages: &[hung],
    },
    &Scenario {
        name: "upgrade/killed",
        about: "the old VMM is killed during the blackout: the guest continues in the new \
                one, or waits in its box",
        host: HostKind::GuestOneBoot,
        stages: &[killed],
    },
];

/// The new VMM's steps before it reports that the guest could run, and the exit statuses.
const BEFORE: [(&str, i32); 3] = [("preflight", 10), ("prebuild", 11), ("restore", 11)];

/// A binary whose VMM stops itself at a step, as by SIGSTOP.
fn stopping_at(guest: &Guest, step: &str) -> Result<String> {
    guest.bad_binary(&format!("exec {VMM} \"$@\" --stop-at {step}"))
}

fn upgrade(guest: &Guest, binary: &str, more: &[&str]) -> Command {
    let mut update = Command::new(VMM);
    update.args(["live-update", "--binary", binary, "--api-socket"]);
    // A VMM that stops itself sends a signal, which its system call filter would forbid.
    update.arg(guest.spec.api()).args(["--sandbox", "off"]);
    update.args(more);
    update
}

fn hung(_: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec("hung", "guest_memfd", 1), &port()?)?;
    let before = guest.report()?;
    let old = guest.runner()?;
    for (step, status) in BEFORE {
        let binary = stopping_at(&guest, step)?;
        let ended = Ended::of(&mut upgrade(&guest, &binary, &["--timeout", "3"]))?;
        ended.expect(status)?;
        for expected in ["no answer within 3 s", "process "] {
            ensure!(
                ended.text.contains(expected),
                "{step}: not {expected:?}: {}",
                ended.text
            );
        }
        equal("The VMM", vmm_of(&guest)?, old.pid())?;
        equal("A box", fdbox::listed(guest.spec.name)?.is_some(), false)?;
        goes_on(&mut guest, &before)?;
    }
    late_with_the_guest(&mut guest, &old, &before)?;
    late_with_its_report(&mut guest, &before)?;
    let runner = guest.runner()?;
    guest.power_off_under(&runner)
}

/// The process of the guest's VMM, according to the API.
fn vmm_of(guest: &Guest) -> Result<i32> {
    let pid = guest.spec.status()?["pid"].as_i64();
    Ok(i32::try_from(pid.context("The VMM's process")?)?)
}

/// The guest is healthy, and the same one.
fn goes_on(guest: &mut Guest, before: &Report) -> Result<()> {
    guest.wait_for_beat()?;
    same_guest(before, &guest.report()?)
}

/// The new VMM has taken the guest but does not run it: the guest is not reported as lost, and runs
/// there when it can.
fn late_with_the_guest(guest: &mut Guest, old: &Runner, before: &Report) -> Result<()> {
    let binary = stopping_at(guest, "jump")?;
    let mut update = Updating::start(&mut upgrade(guest, &binary, &["--timeout", "4"]))?;
    // After four seconds the old VMM is asked to take the guest back, cannot, and ends.
    host::until("The old VMM has ended", || Ok(!old.is_alive()))?;
    let new = child_of(update.id())?;
    ensure!(update.is_on()?, "The update has ended without the guest");
    kill_process(new, Signal::CONT)?;
    update.end()?.expect(0)?;
    equal("The VMM", vmm_of(guest)?, new.as_raw_nonzero().get())?;
    goes_on(guest, before)
}

/// The new VMM runs the guest but does not report it: the update is complete.
fn late_with_its_report(guest: &mut Guest, before: &Report) -> Result<()> {
    let binary = stopping_at(guest, "finish")?;
    let update = Updating::start(&mut upgrade(guest, &binary, &["--timeout", "3"]))?;
    let mut new = None;
    host::until("The new VMM is stopped", || {
        new = child_of(update.id()).ok();
        Ok(new.is_some_and(is_stopped))
    })?;
    let new = new.context("The new VMM")?;
    update.end()?.expect(0)?;
    kill_process(new, Signal::CONT)?;
    equal("The VMM", vmm_of(guest)?, new.as_raw_nonzero().get())?;
    goes_on(guest, before)
}

/// The process started by this one.
fn child_of(parent: u32) -> Result<Pid> {
    let parent = parent.to_string();
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        rest.split(' ').nth(1) == Some(&parent)
    };
    let entries = std::fs::read_dir("/proc")?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let child = pids.find(is_child).and_then(Pid::from_raw);
    child.context("It has started nobody")
}

fn is_stopped(pid: Pid) -> bool {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    std::fs::read_to_string(path).is_ok_and(|stat| stat.contains(") T "))
}

/// Stops the coordinator when the whole guest is in its box, kills the guest's VMM, and lets the
/// coordinator continue.
fn kill_at_the_jump(guest: &Guest, more: &[&str]) -> Result<Ended> {
    let old = guest.runner()?;
    let arguments = [&["--stop-at", "jump"], more].concat();
    let update = Updating::start(&mut upgrade(guest, VMM, &arguments))?;
    update.wait_for_stop()?;
    old.kill()?;
    update.signal(Signal::CONT)?;
    update.end()
}

fn killed(_: &Cx<'_>) -> Result<()> {
    let port = port()?;
    let mut guest = Guest::boot(spec("killed", "guest_memfd", 1), &port)?;
    let before = guest.report()?;
    kill_at_the_jump(&guest, &[])?.expect(0)?;
    equal("A box", fdbox::listed(guest.spec.name)?.is_some(), false)?;
    goes_on(&mut guest, &before)?;

    // The new one fails, too: the guest waits for a third VMM.
    let ended = kill_at_the_jump(&guest, &["--fail-at", "restore", "--json"])?;
    ended.expect(13)?;
    let last = ended.text.lines().last().context("It has an end")?;
    let end: serde_json::Value = serde_json::from_str(last)?;
    equal("The result", &end["result"], &json!("waits-in-box"))?;
    let spec = guest.spec.clone();
    drop(guest);
    let mut guest = Guest::resume(spec, &port)?;
    goes_on(&mut guest, &before)?;
    guest.power_off()
}
