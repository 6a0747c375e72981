//! Whatever hangs, all other guests continue: tests with a stopped coordinator and a stopped VMM.

use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};

use super::guests::{all_go_on, boot_some};
use super::reports::same_guest;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox;
use crate::fleet::{Member, read_report, resume_all, side_by_side, update_all};
use crate::guest::{self, Ended, VMM};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "guests/stopped",
    about: "a coordinator that is stopped at any step, and a new VMM that hangs while \
                three others work",
    host: HostKind::GuestsOneBoot,
    stages: &[stopped],
}];

/// The directory of the reports.
const FOLDER: &str = "/run/reports";
/// The steps at which the coordinator is stopped, and whether guests are paused then: the kernel
/// ends it if they are, otherwise the test does.
const STEPS: [(&str, bool); 4] = [
    ("load-kernel", false),
    ("seal", false),
    ("pause", false),
    ("jump", true),
];

fn stopped(_: &Cx<'_>) -> Result<()> {
    let mut members = boot_some(4)?;
    let before = side_by_side(&mut members, Member::report)?;
    let info = fdbox::info()?;
    for (step, guests_stand) in STEPS {
        let arguments = ["--pause-timeout", "2", "--stop-at", step];
        let mut coordinator = update_all(&arguments)?.stdin(Stdio::null()).spawn()?;
        let pid = Pid::from_raw(coordinator.id() as i32).context("A process has a number")?;
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED)?.context("A status")?;
        ensure!(
            status.stopped(),
            "{step}: the coordinator ended: {status:?}"
        );
        if !guests_stand {
            // They run, and do not depend on anything else for that.
            side_by_side(&mut members, |member| member.wait_for_beat())?;
            for member in &members {
                guest::command("cancel", &member.api())?.expect(0)?;
            }
            kill_process(pid, Signal::KILL)?;
        }
        // While guests are paused the kernel ends it: it can neither keep them paused nor jump
        // later.
        let ended = coordinator.wait()?;
        equal("What ended the coordinator", ended.code(), None)?;
        all_go_on(&mut members, &before)?;
    }
    // What it left behind does not block the next update: an empty box is reused, and a kernel is
    // replaced.
    Ended::of(&mut update_all(&["--fail-at", "jump"])?)?.expect(11)?;
    equal("The module's figures", fdbox::info()?, info)?;
    one_hangs(members)
}

/// All guests are handed over; the VMM of one hangs when it is to be resumed.
fn one_hangs(members: Vec<Member>) -> Result<()> {
    let mut update = Command::new(VMM);
    update.args(["live-update", "--all", "--no-kexec", "--order", "vm1"]);
    Ended::of(&mut update)?.expect(0)?;
    members.into_iter().try_for_each(Member::wait_for_vmm)?;
    resume_all(FOLDER, &["--stop-guest", "vm1", "--timeout", "8"])?.expect(10)?;
    let total = read_report(FOLDER, "total")?;
    equal("Guests that run", &total["resumed"], &json!(3))?;
    let hung = of(&total, "vm1")?;
    let why = hung["error"].as_str().unwrap_or_default();
    for reason in ["(process ", "no answer within 8 s"] {
        ensure!(why.contains(reason), "Not {reason:?}: {why}");
    }
    let port = Arc::new(EventPort::open()?);
    let mut others = Vec::new();
    for name in ["vm0", "vm2", "vm3"] {
        others.push(Member::attach(name, &port)?);
    }
    side_by_side(&mut others, |member| member.wait_for_beat())?;
    // Its box is unchanged.
    resume_all(FOLDER, &["--paused"])?.expect(0)?;
    let mut last = Member::attach("vm1", &port)?;
    let state = guest::status(Some(&last.api()))?["state"].clone();
    equal("The guest's state", state, json!("paused"))?;
    guest::command("continue", &last.api())?.expect(0)?;
    last.wait_for_beat()?;
    let report = last.report()?;
    same_guest(&report, &last.report()?)?;
    last.power_off()?;
    others.into_iter().try_for_each(Member::power_off)
}

fn of<'a>(total: &'a Value, name: &str) -> Result<&'a Value> {
    let mut guests = total["guests"].as_array().into_iter().flatten();
    guests
        .find(|guest| guest["box"] == name)
        .context("The guest's end")
}
