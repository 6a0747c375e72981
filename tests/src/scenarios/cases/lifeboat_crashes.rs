//! VMMs that are killed while their guest moves to a lifeboat or back.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::Report;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::guest::port;
use super::lifeboat_update::{
    CPU, boot, by_boat, by_boat_that, come, guests_in_boat, is_over, leave, on_guest_memfd,
    on_guest_memfd_comes_home, spec,
};
use super::reports::same_guest;
use super::{Cx, Scenario};
use crate::boat::{Boat, RUNNING};
use crate::check::equal;
use crate::guest::{Ended, Guest, Spec, Updating, VMM};
use crate::{fdbox, host};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/killed-vmms",
        about: "whichever VMM is killed in a move, the guest runs, waits in its box or is reported as lost",
        host: HostKind::GuestLifeboat,
        stages: &[killed, comes_home],
    },
    &Scenario {
        name: "lifeboat/killed-vmms-of-guest-memfd",
        about: "the same for a guest on a guest_memfd",
        host: HostKind::GuestLifeboat,
        stages: &[killed_on_guest_memfd, on_guest_memfd_comes_home],
    },
];

fn killed(cx: &Cx<'_>) -> Result<()> {
    killed_under(cx, spec)
}

fn killed_on_guest_memfd(cx: &Cx<'_>) -> Result<()> {
    killed_under(cx, on_guest_memfd)
}

fn killed_under(cx: &Cx<'_>, spec: fn() -> Spec) -> Result<()> {
    let boat = Boat::open()?;
    let mut guest = boot(spec())?;
    let before = guest.report()?;
    guest = boats_vmm_before_it_takes(&boat, guest, &before)?;
    guest = homes_vmm_before_it_takes(&boat, guest, &before)?;
    hosts_vmm_before_the_move(&boat, &guest)?;
    drop(guest);
    boats_vmm_with_the_guest(&boat, &boot(spec())?)?;
    leave(cx, boot(spec())?)
}

fn comes_home(cx: &Cx<'_>) -> Result<()> {
    come(cx, spec())?.power_off()
}

/// Takes the guest to a boat whose init acts so, in a host that does not jump.
pub(super) fn board(boat: &Boat, guest: &Guest, acts: &str) -> Result<()> {
    let mut arguments = by_boat_that(CPU, acts);
    arguments.extend(["--fail-at", "jump"].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    guest.live_update(&arguments)?.expect(13)?;
    equal("The state", boat.status()?.state, RUNNING)
}

pub(super) fn go_home(boat: &Boat, before: &Report) -> Result<Guest> {
    let mut guest = Guest::resume_with(spec(), None, &port()?)?;
    same_guest(before, &guest.report()?)?;
    is_over(boat, "0-1")?;
    Ok(guest)
}

/// The boat starts another VMM, and that takes the guest.
fn boats_vmm_before_it_takes(boat: &Boat, guest: Guest, before: &Report) -> Result<Guest> {
    board(boat, &guest, "carry-and-kill:ready")?;
    equal(
        "The guests in the boat",
        guests_in_boat()?,
        json!([spec().name]),
    )?;
    drop(guest);
    // The VMM that is to take it home dies before it asks for the guest, which keeps running where it is.
    let resume = Updating::start(Command::new(VMM).args(["resume", "--box", spec().name]))?;
    kill_process(new_vmm()?, Signal::KILL)?;
    resume.end()?.expect(10)?;
    equal(
        "The guests in the boat",
        guests_in_boat()?,
        json!([spec().name]),
    )?;
    go_home(boat, before)
}

/// The boat has given the guest back: it waits in its box for the next VMM.
fn homes_vmm_before_it_takes(boat: &Boat, guest: Guest, before: &Report) -> Result<Guest> {
    board(boat, &guest, "carry")?;
    drop(guest);
    let mut resume = Command::new(VMM);
    resume.args(["resume", "--all", "--stop-guest", spec().name]);
    let resume = Updating::start(&mut resume)?;
    host::until("The boat gives the guest back", || {
        Ok(guests_in_boat()? == json!([]))
    })?;
    kill_process(new_vmm()?, Signal::KILL)?;
    resume.end()?.expect(10)?;
    go_home(boat, before)
}

/// The guest was in that process and nowhere else.
fn hosts_vmm_before_the_move(boat: &Boat, guest: &Guest) -> Result<()> {
    let mut arguments = by_boat(CPU);
    // As JSON the whole result is on its standard output.
    arguments.extend(["--stop-at", "pause", "--json"].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let update = guest.start_update(&arguments)?;
    update.wait_for_stop()?;
    kill_vmm(guest)?;
    update.signal(Signal::CONT)?;
    says_what_to_do(&update.end()?)?;
    is_over(boat, "0-1")?;
    forget()
}

/// So was this one, in the other kernel.
fn boats_vmm_with_the_guest(boat: &Boat, guest: &Guest) -> Result<()> {
    board(boat, guest, "carry-and-kill:aboard")?;
    host::until("The boat gives back what is left", || {
        Ok(guests_in_boat()? == json!([]))
    })?;
    is_lost(ERASED)?;
    is_over(boat, "0-1")?;
    forget()
}

/// Kills the process that runs the guest, which is not the one that started it and waits for it.
pub(super) fn kill_vmm(guest: &Guest) -> Result<()> {
    let id = guest.spec.status()?["pid"]
        .as_i64()
        .context("Its process")?;
    let vmm = Pid::from_raw(i32::try_from(id)?).context("A process has a number")?;
    kill_process(vmm, Signal::KILL)?;
    // As a child of this process it stays as a zombie.
    host::until("The VMM is gone", || {
        let status = fs::read_to_string(format!("/proc/{id}/status"));
        Ok(status.map_or(true, |status| status.contains("State:\tZ")))
    })
}

/// What a resume says of the box of a guest that was lost in the boat.
pub(super) const ERASED: &str = "VM state is empty";

/// A resume finds no state in the box, and says so in these words.
pub(super) fn is_lost(words: &str) -> Result<()> {
    let ended = Ended::of(Command::new(VMM).args(["resume", "--box", spec().name]))?;
    ended.expect(10)?;
    ensure!(ended.text.contains(words), "{}", ended.text);
    Ok(())
}

/// A command has lost the guest, and tells how [`forget`] is done.
pub(super) fn says_what_to_do(ended: &Ended) -> Result<()> {
    ended.expect(12)?;
    let words = format!("`vmm-example discard --box {} --yes`", spec().name);
    ensure!(ended.text.contains(&words), "{}", ended.text);
    Ok(())
}

/// Deletes what is left of a guest that is lost, if there is anything.
pub(super) fn forget() -> Result<()> {
    if fdbox::listed(spec().name)?.is_none() {
        return Ok(());
    }
    let mut discard = Command::new(VMM);
    Ended::of(discard.args(["discard", "--box", spec().name, "--yes"]))?.expect(0)
}

/// The only VMM that was started for a guest from a box, once it is there.
fn new_vmm() -> Result<Pid> {
    let mut found = None;
    host::until("A VMM is started", || {
        for process in fs::read_dir("/proc")? {
            let process = process?;
            // It may have ended meanwhile, or be no process.
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0);
            if words.any(|word| word == b"member") {
                let id = process.file_name().to_string_lossy().parse();
                found = id.ok().and_then(Pid::from_raw);
            }
        }
        Ok(found.is_some())
    })?;
    found.context("There is one")
}
