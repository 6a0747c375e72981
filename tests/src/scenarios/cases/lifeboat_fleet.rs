//! Several guests that share a lifeboat while their host kexecs.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Result, bail};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::command::{RESET_GAP, WRITE};

use super::guests::tell_of;
use super::lifeboat_update::{arrive, by_boat, is_over, note_the_time};
use super::reports::healthy;
use super::{Cx, Scenario, privileges};
use crate::boat::{Boat, of_none};
use crate::check::equal;
use crate::fleet::{Member, MemberSpec, read_report, resume_all, side_by_side, update_all};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "lifeboat/two-guests",
    about: "two guests move to a boat with two CPUs one by one, and come home one by one",
    host: HostKind::GuestsLifeboat,
    stages: &[leave, come_home],
}];

const GUESTS: [&str; 2] = ["vm0", "vm1"];
/// The directory of the reports.
const FOLDER: &str = "/run/reports";

fn leave(cx: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    equal("The boat", boat.status()?, of_none())?;
    let port = Arc::new(EventPort::open()?);
    let mut members = Vec::new();
    for name in GUESTS {
        let member = Member::start(MemberSpec::new(name, "memfd", 2), &[], &port)?;
        member.wait_until_ready()?;
        members.push(member);
    }
    side_by_side(&mut members, |member| {
        healthy(&member.report()?)?;
        // From now on, gaps are caused by the update.
        member.tell(RESET_GAP)?;
        let vmm = privileges::vmm_status(&member.api())?;
        cx.value(&format!("vmm {}", member.name), vmm)?;
        let report = member.report()?;
        cx.value(&format!("witness {}", member.name), report)
    })?;
    side_by_side(&mut members, |member| {
        member.wait_for_beat()?;
        member.wait_for_beat()
    })?;
    note_the_time()?;
    let arguments = by_boat("1,2");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let status = update_all(&arguments)?.stdin(Stdio::null()).status()?;
    bail!("The host was not updated: {status}")
}

fn come_home(cx: &Cx<'_>) -> Result<()> {
    let boat = arrive(cx, &GUESTS)?;
    // The second was lent when the second guest came.
    equal("The boat's CPUs", boat.status()?.nr_cpus, 2)?;
    resume_all(FOLDER, &[])?.expect(0)?;
    is_over(&boat, "0-2")?;
    let total = read_report(FOLDER, "total")?;
    equal("Guests that run", &total["resumed"], &GUESTS.len().into())?;
    let port = Arc::new(EventPort::open()?);
    let members = GUESTS.iter().map(|name| Member::attach(name, &port));
    let mut members = members.collect::<Result<Vec<_>>>()?;
    side_by_side(&mut members, |member| {
        member.wait_for_beat()?;
        tell_of(cx, member, FOLDER)
    })?;
    side_by_side(&mut members, |member| {
        // The guest is fully functional: it can write to all its memory.
        member.tell(&format!("{WRITE} 77"))?;
        healthy(&member.report()?)
    })?;
    members.into_iter().try_for_each(Member::power_off)
}
