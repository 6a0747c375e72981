//! Guests that are offered to a lifeboat, and VMMs that are killed around that.

use std::fs::File;
use std::io::{Read, Seek};

use anyhow::{Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::Report;
use rustix::process::Signal;
use serde_json::json;

use super::guest::port;
use super::lifeboat_crashes::{forget, go_home, is_lost, kill_vmm};
use super::lifeboat_meeting::Meeting;
use super::lifeboat_update::{
    CPU, CPUS_AT_BOOT, boot, by_boat_that, go_with, guests_in_boat, is_over, spec,
};
use super::reports::same_guest;
use super::{Cx, Scenario};
use crate::boat::{Boat, RUNNING};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::guest::{Guest, Updating};
use crate::host;
use crate::memory;
use crate::uapi::{HOLDER_OFFERED, LEND_LOOK};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "lifeboat/offers",
    about: "a guest that the boat does not take runs on in the host, and one whose VMM is killed once it is \
            offered runs in the boat",
    host: HostKind::GuestLifeboatAstray,
    stages: &[offered, home],
}];

/// The boat's part of `vmm-example` stands still from then on.
const WAITS: &str = "carry-and-wait:ready";

fn offered(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    let mut guest = boot(spec())?;
    let before = guest.report()?;
    is_not_taken(&boat, &mut guest, &before)?;
    let guest = hosts_vmm_is_killed(&boat, guest, &before)?;
    go_with(&guest, "carry")
}

/// An update that offers the guest to a boat which does not take it.
fn offer(guest: &Guest, more: &[&str]) -> Result<(Updating, Meeting)> {
    let mut arguments = by_boat_that(CPU, WAITS);
    arguments.extend(["--stop-at", "pause", "--json"].map(str::to_owned));
    let arguments = arguments.iter().map(String::as_str);
    let arguments: Vec<&str> = arguments.chain(more.iter().copied()).collect();
    let update = guest.start_update(&arguments)?;
    update.wait_for_stop()?;
    let meeting = Meeting::wait()?;
    update.signal(Signal::CONT)?;
    host::until("The guest is offered", || {
        let lent = FdBox::open(guest.spec.name)?.try_lend(LEND_LOOK)?;
        Ok(lent.holder == HOLDER_OFFERED)
    })?;
    Ok((update, meeting))
}

/// The host takes the offer back.
fn is_not_taken(boat: &Boat, guest: &mut Guest, before: &Report) -> Result<()> {
    let (update, meeting) = offer(guest, &[])?;
    let ended = update.end()?;
    ended.expect(11)?;
    let words = "the lifeboat did not take it within 30s";
    ensure!(ended.text.contains(words), "{}", ended.text);
    same_guest(before, &guest.report()?)?;
    meeting.end()?;
    is_over(boat, CPUS_AT_BOOT)
}

/// Its state is in the box: it needs that VMM no more.
fn hosts_vmm_is_killed(boat: &Boat, guest: Guest, before: &Report) -> Result<Guest> {
    let (update, meeting) = offer(&guest, &["--fail-at", "jump"])?;
    kill_vmm(&guest)?;
    meeting.end()?;
    update.end()?.expect(13)?;
    equal("The state", boat.status()?.state, RUNNING)?;
    equal("The guests", guests_in_boat()?, json!([spec().name]))?;
    drop(guest);
    let outline = FdBox::open(spec().name)?.get_and_keep("vm-outline")?;
    let outline: File = memory::file(outline);
    ensure!(!is_erased(&outline)?, "There is no outline");
    let guest = go_home(boat, before)?;
    ensure!(is_erased(&outline)?, "The outline outlives its use");
    Ok(guest)
}

fn is_erased(mut file: &File) -> Result<bool> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(!bytes.is_empty() && bytes.iter().all(|byte| *byte == 0))
}

/// The VMM that took the guest home is killed before it has deleted the box: nothing there brings the guest back.
fn home(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    equal("The guests", guests_in_boat()?, json!([spec().name]))?;
    let guest = Guest::resume_and(spec(), &["--fail-at", "finish"], &port()?)?;
    guest.wait_for_beat()?;
    is_over(&boat, "0-1")?;
    kill_vmm(&guest)?;
    drop(guest);
    is_lost("No guest's state in box 'afloat'")?;
    forget()
}
