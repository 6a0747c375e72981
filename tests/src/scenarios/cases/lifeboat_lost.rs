//! Kernels that come to their end while guests move to a lifeboat, or are in it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::{kexec, plan};
use rustix::process::Signal;
use rustix::system::{RebootCommand, reboot};
use serde_json::json;

use super::guest::port;
use super::lifeboat_crashes::{ERASED, forget, is_lost, says_what_to_do};
use super::lifeboat_meeting::Meeting;
use super::lifeboat_update::{
    CPU, CPUS_AT_BOOT, boot, by_boat_that, go_with, guests_in_boat, is_over, spec,
};
use super::reports::{healthy, same_guest};
use super::{Cx, Scenario};
use crate::boat::{Boat, LOST, NODE, RUNNING};
use crate::check::equal;
use crate::guest::{Ended, Guest, VMM};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/crashed-boats",
        about: "a guest keeps running in a host whose boat panics before it takes the guest, and is lost with one that \
                panics once it has it",
        host: HostKind::GuestLifeboatAstray,
        stages: &[before_it_takes, once_it_has],
    },
    &Scenario {
        name: "lifeboat/passed-on",
        about: "a guest is in the boat while a next host kexecs before it has loaded the boat's module",
        host: HostKind::GuestLifeboatAstray,
        stages: &[leaves, passes_on, comes_home],
    },
];

/// Has the boat panic, which waits for that.
fn crash(boat: &Boat) -> Result<()> {
    equal("The state", boat.status()?.state, RUNNING)?;
    Meeting::wait()?.end()?;
    equal("The state", boat.next_state()?, LOST)
}

/// The guest is not even stopped.
fn before_it_takes(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    let mut guest = boot(spec())?;
    let before = guest.report()?;
    let mut arguments = by_boat_that(CPU, "carry-and-panic:ready");
    arguments.extend(["--stop-at", "pause", "--json"].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let update = guest.start_update(&arguments)?;
    update.wait_for_stop()?;
    crash(&boat)?;
    update.signal(Signal::CONT)?;
    let ended = update.end()?;
    ended.expect(11)?;
    let words = "the lifeboat is lost";
    ensure!(ended.text.contains(words), "{}", ended.text);
    same_guest(&before, &guest.report()?)?;
    is_over(&boat, CPUS_AT_BOOT)?;
    go_with(&guest, "carry-and-panic:aboard")
}

/// The host gets its CPU back nevertheless, and nothing in the box passes for the guest.
fn once_it_has(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    equal("The guests", guests_in_boat()?, json!([spec().name]))?;
    crash(&boat)?;
    let ended = Ended::of(Command::new(VMM).args(["resume", "--box", spec().name]))?;
    says_what_to_do(&ended)?;
    let words = "the lifeboat that had it is lost";
    ensure!(ended.text.contains(words), "{}", ended.text);
    is_over(&boat, "0-1")?;
    is_lost(ERASED)?;
    forget()
}

fn leaves(_: &Cx<'_>) -> Result<()> {
    go_with(&boot(spec())?, "carry")
}

/// Only fdbox.ko is loaded in this kernel.
fn passes_on(_: &Cx<'_>) -> Result<()> {
    let is_loaded = std::fs::exists(NODE)?;
    equal("Whether the boat's module is loaded", is_loaded, false)?;
    let cmdline = std::env::var(plan::NEXT_CMDLINE).context("The plan has no next kernel")?;
    kexec::load_next(&cmdline)?;
    Ok(reboot(RebootCommand::Kexec)?)
}

fn comes_home(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    equal("The state", boat.status()?.state, RUNNING)?;
    equal("The guests", guests_in_boat()?, json!([spec().name]))?;
    let mut guest = Guest::resume_with(spec(), None, &port()?)?;
    healthy(&guest.report()?)?;
    is_over(&boat, "0-1")?;
    guest.power_off()
}
