//! Several guests on one host, updated together.

use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::Report;
use fdbox_lab::witness::command::{RESET_GAP, WRITE};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::reports::{healthy, same_guest};
use super::{Cx, Scenario, privileges};
use crate::check::equal;
use crate::fleet::{Member, MemberSpec, read_report, resume_all, side_by_side, update_all};
use crate::guest::{self, Ended, Updating, VMM, Watch};
use crate::{fdbox, host, memory, network};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "guests/four-in-one-kexec",
        about: "four guests continue under a new kernel, in the requested order",
        host: HostKind::Guests,
        stages: &[four_before, four_after],
    },
    &Scenario {
        name: "guests/failures-before-the-jump",
        about: "whichever guest fails at any step, every guest continues",
        host: HostKind::GuestsOneBoot,
        stages: &[failures],
    },
    &Scenario {
        name: "guests/called-off",
        about: "`cancel`, SIGTERM and a failed jump roll everything back; a guest that is \
                not ready can be left out",
        host: HostKind::GuestsOneBoot,
        stages: &[called_off],
    },
];

/// Both kinds of memory, next to each other.
const GUESTS: [(&str, &str); 8] = [
    ("vm0", "guest_memfd"),
    ("vm1", "memfd"),
    ("vm2", "guest_memfd"),
    ("vm3", "guest_memfd"),
    ("vm4", "guest_memfd"),
    ("vm5", "guest_memfd"),
    ("vm6", "guest_memfd"),
    ("vm7", "guest_memfd"),
];
/// The order of the first guests to be resumed.
const ORDER: [&str; 2] = ["vm2", "vm1"];

/// Four guests; the lab can request another number, and one kind of memory for all, through the environment.
fn guests() -> Vec<(&'static str, String)> {
    let asked = std::env::var("LAB_GUESTS").ok();
    let count = asked.and_then(|text| text.parse().ok()).unwrap_or(4);
    let kind = std::env::var("LAB_FLEET_RAM").ok();
    let guests = GUESTS[..count.clamp(1, GUESTS.len())].iter();
    guests
        .map(|(name, usual)| (*name, kind.clone().unwrap_or_else(|| (*usual).to_owned())))
        .collect()
}

/// Which of them are resumed first.
fn order() -> Vec<&'static str> {
    let is_there = |name: &&str| guests().iter().any(|(other, _)| other == name);
    ORDER.into_iter().filter(is_there).collect()
}
/// The directory of the reports.
const FOLDER: &str = "/run/reports";

/// Whether each guest has a drive and a tap.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Devices {
    Each,
    None,
}

fn boot(guests: &[(&str, impl AsRef<str>)], devices: Devices) -> Result<Vec<Member>> {
    let port = Arc::new(EventPort::open()?);
    let count = u8::try_from(guests.len())?;
    let mut members = Vec::new();
    for (number, (name, kind)) in (0..).zip(guests) {
        let spec = MemberSpec {
            number: (devices == Devices::Each).then_some(number),
            ..MemberSpec::new(name, kind.as_ref(), count)
        };
        let member = Member::start(spec, &[], &port)?;
        // One after the other: booting them in parallel would not be faster.
        member.wait_until_ready()?;
        members.push(member);
    }
    Ok(members)
}

/// `count` guests, without devices.
pub(super) fn boot_some(count: usize) -> Result<Vec<Member>> {
    boot(&GUESTS[..count], Devices::None)
}

fn four_before(cx: &Cx<'_>) -> Result<()> {
    let mut members = boot(&guests(), Devices::Each)?;
    side_by_side(&mut members, |member| {
        healthy(&member.report()?)?;
        member.console.wait_for_io(None)?;
        // From now on, gaps are caused by the update.
        member.tell(RESET_GAP)?;
        let report = member.report()?;
        let vmm = privileges::vmm_status(&member.api())?;
        cx.value(&format!("vmm {}", member.name), vmm)?;
        cx.value(&format!("witness {}", member.name), report)
    })?;
    side_by_side(&mut members, |member| member.wait_for_beat())?;
    let mut update = update_all(&["--order", &order().join(",")])?;
    let status = update.stdin(Stdio::null()).status()?;
    bail!("The host was not updated: {status}")
}

fn four_after(cx: &Cx<'_>) -> Result<()> {
    for (number, _) in (0..).zip(guests()) {
        network::set_up(number)?;
    }
    resume_all(FOLDER, &[])?.expect(0)?;
    // All of them first: no message of a guest must be missed.
    let port = Arc::new(EventPort::open()?);
    let mut members = Vec::new();
    for (name, _) in guests() {
        members.push(Member::attach(name, &port)?);
    }
    let total = read_report(FOLDER, "total")?;
    equal("Guests that run", &total["resumed"], &guests().len().into())?;
    check_order(&total)?;
    side_by_side(&mut members, |member| {
        member.wait_for_beat()?;
        tell_of(cx, member, FOLDER)
    })?;
    side_by_side(&mut members, |member| {
        // The guest is fully functional: it can write to all its memory and continues its work.
        member.tell(&format!("{WRITE} 77"))?;
        healthy(&member.report()?)?;
        let io = member.console.io()?;
        member.console.wait_for_io(Some(&io))?;
        cx.value(&format!("io {}", member.name), member.console.end_io()?)
    })?;
    members.into_iter().try_for_each(Member::power_off)?;
    resume_all(FOLDER, &[])?.expect(0)
}

/// The guests in the given order ran first, and the others after them.
fn check_order(total: &Value) -> Result<()> {
    let ran = |name: &str| -> Result<u64> {
        let guests = total["guests"].as_array().into_iter().flatten();
        let mut guests = guests.filter(|guest| guest["box"] == name);
        let when = guests
            .next()
            .and_then(|guest| guest["ran_after_ns"].as_u64());
        when.with_context(|| format!("When {name} ran"))
    };
    let order = order();
    let mut before = 0;
    for name in &order {
        let when = ran(name)?;
        ensure!(before < when, "{name} was resumed too early");
        before = when;
    }
    for (name, _) in guests().iter().filter(|(name, _)| !order.contains(name)) {
        ensure!(before < ran(name)?, "{name} was resumed too early");
    }
    Ok(())
}

/// Who fails at which step, the coordinator or a guest, and the exit status: once the first guest
/// has been sealed, the update is rolled back.
const FAILURES: &[(&str, Option<&str>, i32)] = &[
    ("preflight", None, 10),
    ("load-kernel", None, 10),
    ("seal", None, 10),
    ("pause", None, 11),
    ("jump", None, 11),
    ("preflight", Some("vm1"), 10),
    ("create-box", Some("vm1"), 11),
    ("seal", Some("vm1"), 11),
    ("pause", Some("vm1"), 11),
    ("save", Some("vm1"), 11),
    ("jump", Some("vm1"), 11),
];

fn failures(_: &Cx<'_>) -> Result<()> {
    let mut members = boot(&GUESTS[..2], Devices::None)?;
    let before = side_by_side(&mut members, Member::report)?;
    let info = fdbox::info()?;
    let dry_run = |arguments: &[&str]| Ended::of(&mut update_all(arguments)?);
    dry_run(&["--dry-run"])?.expect(0)?;
    for (step, guest, status) in FAILURES {
        let mut arguments = vec!["--fail-at", step];
        arguments.extend(guest.iter().flat_map(|name| ["--fail-guest", name]));
        let ended = Ended::of(&mut update_all(&arguments)?)?;
        ended.expect(*status)?;
        equal("The module's figures", fdbox::info()?, info)?;
        all_go_on(&mut members, &before)?;
    }
    dry_run(&["--dry-run"])?.expect(0)?;
    members.into_iter().try_for_each(Member::power_off)
}

/// Every guest works, and is the same one as before.
pub(super) fn all_go_on(members: &mut [Member], before: &[Report]) -> Result<()> {
    let after = side_by_side(members, |member| {
        member.wait_for_beat()?;
        member.report()
    })?;
    let mut pairs = before.iter().zip(&after);
    pairs.try_for_each(|(before, after)| same_guest(before, after))
}

/// What happens to an update while it waits for one of its guests to be sealed.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    /// `vmm-example cancel` for the guest that is already sealed.
    CancelledAtAGuest,
    /// SIGTERM to the coordinator.
    CoordinatorInterrupted,
    /// SIGHUP to the coordinator: its terminal closes.
    TerminalClosed,
    /// The next kernel is unloaded: reboot(KEXEC) itself fails, with all guests paused.
    KernelUnloaded,
}

fn called_off(_: &Cx<'_>) -> Result<()> {
    let mut members = boot(&GUESTS[..2], Devices::None)?;
    let before = side_by_side(&mut members, Member::report)?;
    let info = fdbox::info()?;
    for (mishap, expected) in [
        (Mishap::CancelledAtAGuest, "Cancelled"),
        (Mishap::CoordinatorInterrupted, "Cancelled"),
        (Mishap::TerminalClosed, "Cancelled"),
        (Mishap::KernelUnloaded, "Cannot jump into the next kernel"),
    ] {
        let end = undone(&members, mishap)?;
        let of = |name: &str| -> Result<&Value> {
            let mut guests = end["guests"].as_array().into_iter().flatten();
            let guest = guests.find(|guest| guest["name"] == name);
            guest.context("The guest's end")
        };
        let first = of("vm0")?;
        let what = format!("{mishap:?}: the first guest's end");
        equal(&what, &first["result"], &json!("rolled-back"))?;
        let jumped = matches!(mishap, Mishap::KernelUnloaded);
        equal("That it was paused", first["paused_ns"].is_u64(), jumped)?;
        equal("The exit status", &end["exit_status"], &json!(11))?;
        let message = end["message"].as_str().unwrap_or_default();
        ensure!(message.contains(expected), "Not {expected:?}: {end}");
        equal("The module's figures", fdbox::info()?, info)?;
        equal("The next kernel", host::next_kernel_is_loaded()?, false)?;
        all_go_on(&mut members, &before)?;
    }
    one_stays(members, &before)
}

/// Begins an update that is blocked because one VMM is stopped, and triggers the mishap when the
/// other guest is sealed. Returns the coordinator's last message.
fn undone(members: &[Member], mishap: Mishap) -> Result<Value> {
    let [first, second] = members else {
        bail!("It takes two guests")
    };
    let mut watch = Watch::start(&first.api())?;
    let mut arguments = vec!["--json"];
    if !matches!(mishap, Mishap::KernelUnloaded) {
        // If the cancel came too late, the update would still not leave the host.
        arguments.extend(["--fail-at", "jump"]);
    }
    let mut update = Updating::start(&mut update_all(&arguments)?)?;
    // By then every guest has answered, and none has received another request yet.
    update.wait_for("loading a kernel", |line| line.contains("load-kernel ..."))?;
    let stopped = second.stop()?;
    watch.until("step-done", Some("seal"))?;
    match mishap {
        Mishap::CancelledAtAGuest => guest::command("cancel", &first.api())?.expect(0)?,
        Mishap::CoordinatorInterrupted => update.interrupt()?,
        Mishap::TerminalClosed => update.signal(Signal::HUP)?,
        Mishap::KernelUnloaded => host::unload_next_kernel()?,
    }
    if !matches!(mishap, Mishap::KernelUnloaded) {
        // This guest is rolled back whatever the other one does.
        watch.until("update-end", None)?;
    }
    drop(stopped);
    let ended = update.end()?;
    ended.expect(11)?;
    let last = ended.text.lines().last().context("It has an end")?;
    Ok(serde_json::from_str(last)?)
}

/// One guest is not ready: the other one is taken over by another VMM in this kernel, and the
/// former continues where it is.
fn one_stays(mut members: Vec<Member>, before: &[Report]) -> Result<()> {
    // The box contains a file of another program: an empty box could be left over from an update.
    let in_the_way = fdbox::FdBox::create("vm1")?;
    in_the_way.put(memory::memfd(c"other", 4096)?, "other")?;
    let tried = Ended::of(&mut update_all(&["--not-ready", "leave", "--dry-run"])?)?;
    for message in ["vm1 is not ready and left behind", "Box vm1"] {
        ensure!(
            tried.text.contains(message),
            "Not {message:?}: {}",
            tried.text
        );
    }
    let mut update = Command::new(VMM);
    update.args(["live-update", "--all", "--no-kexec", "--json"]);
    let ended = Ended::of(update.args(["--not-ready", "leave"]))?;
    ended.expect(0)?;
    let end = ended.text.lines().find(|line| line.contains("fleet-end"));
    let end: Value = serde_json::from_str(end.context("It has an end")?)?;
    let mut results: Vec<_> = end["guests"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|guest| (guest["name"].clone(), guest["result"].clone()))
        .collect();
    results.sort_by_key(|(name, _)| name.to_string());
    let wanted = [("vm0", "handed-over"), ("vm1", "left-behind")];
    equal("The result", json!(results), json!(wanted))?;
    equal("The exit status", &end["exit_status"], &json!(0))?;
    let mut left = members.pop().context("There are two")?;
    members.into_iter().try_for_each(Member::wait_for_vmm)?;
    left.wait_for_beat()?;
    same_guest(&before[1], &left.report()?)?;
    in_the_way.delete()?;
    resume_all(FOLDER, &[])?.expect(0)?;
    let mut gone = Member::attach("vm0", &Arc::new(EventPort::open()?))?;
    same_guest(&before[0], &gone.report()?)?;
    gone.power_off()?;
    left.power_off()
}

/// Sends the reports of a resumed guest and its VMM to the lab. Its box no longer exists.
pub(super) fn tell_of(cx: &Cx<'_>, member: &mut Member, folder: &str) -> Result<()> {
    let name = member.name.clone();
    let report = member.report()?;
    healthy(&report)?;
    cx.value(&format!("witness {name}"), report)?;
    cx.value(&format!("resume {name}"), read_report(folder, &name)?)?;
    cx.value(
        &format!("vmm {name}"),
        privileges::vmm_status(&member.api())?,
    )?;
    let boxes = guest::status(None)?;
    let mut boxes = boxes.as_array().into_iter().flatten();
    equal(
        "The box in the list",
        boxes.any(|one| one["name"] == *name),
        false,
    )
}
