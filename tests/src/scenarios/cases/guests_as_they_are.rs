//! Guests on one host, updated together: one is paused, one resets, and one does neither.

use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::{Report, command};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::json;

use super::guests::boot_some;
use super::reports::{healthy, same_guest};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fleet::{Member, resume_all, side_by_side, update_all};
use crate::guest::{self, VMM};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "guests/one-paused-one-resets",
    about: "one of three guests is paused and one resets at each step: each arrives in \
                its state, and the others are unaffected",
    host: HostKind::GuestsOneBoot,
    stages: &[as_they_are],
}];

const PAUSED: usize = 0;
const RESETS: usize = 1;
const RUNS: usize = 2;
/// The directory of the reports.
const FOLDER: &str = "/run/reports";
/// The steps at which guests run.
const STEPS: [&str; 3] = ["load-kernel", "seal", "pause"];

fn as_they_are(_: &Cx<'_>) -> Result<()> {
    let mut members = boot_some(3)?;
    let mut before = side_by_side(&mut members, Member::report)?;
    guest::command("pause", &members[PAUSED].api())?.expect(0)?;
    for step in STEPS {
        let update = update_all(&["--fail-at", "jump", "--stop-at", step])?;
        let status = reset_meanwhile(update, &mut members[RESETS], step)?;
        equal(&format!("The update's status, {step}"), status, Some(11))?;
        check(&mut members, &mut before)?;
    }
    let mut update = Command::new(VMM);
    update.args(["live-update", "--all", "--no-kexec", "--stop-at", "seal"]);
    let status = reset_meanwhile(update, &mut members[RESETS], "seal")?;
    equal("The update's status", status, Some(0))?;
    members.into_iter().try_for_each(Member::wait_for_vmm)?;
    resume_all(FOLDER, &[])?.expect(0)?;
    let port = Arc::new(EventPort::open()?);
    let attach = |name: &str| Member::attach(name, &port);
    let members: Result<Vec<_>> = ["vm0", "vm1", "vm2"].map(attach).into_iter().collect();
    let mut members = members?;
    check(&mut members, &mut before)?;
    let paused = &mut members[PAUSED];
    guest::command("continue", &paused.api())?.expect(0)?;
    paused.wait_for_beat()?;
    same_guest(&before[PAUSED], &paused.report()?)?;
    members.into_iter().try_for_each(Member::power_off)
}

/// Makes a guest reset while an update is at the step where its coordinator stops itself. Returns
/// the result of the update.
fn reset_meanwhile(mut update: Command, guest: &mut Member, step: &str) -> Result<Option<i32>> {
    let mut coordinator = update.stdin(Stdio::null()).spawn()?;
    let pid = Pid::from_raw(coordinator.id() as i32).context("A process has a number")?;
    let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED)?.context("A status")?;
    ensure!(
        status.stopped(),
        "{step}: the coordinator ended: {status:?}"
    );
    guest.tell(command::RESET)?;
    kill_process(pid, Signal::CONT)?;
    Ok(coordinator.wait()?.code())
}

/// The paused guest is still paused, the one that reset has booted again, and the third one is
/// unaffected.
fn check(members: &mut [Member], before: &mut [Report]) -> Result<()> {
    let status = guest::status(Some(&members[PAUSED].api()))?;
    equal("The paused guest", &status["state"], &json!("paused"))?;
    members[RESETS].wait_until_ready()?;
    let booted = members[RESETS].report()?;
    healthy(&booted)?;
    ensure!(
        booted.boot_id != before[RESETS].boot_id,
        "The guest did not boot again"
    );
    before[RESETS] = booted;
    members[RUNS].wait_for_beat()?;
    same_guest(&before[RUNS], &members[RUNS].report()?)
}
