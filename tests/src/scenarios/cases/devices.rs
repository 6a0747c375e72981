//! A guest with disk and network, both in use while the host is updated.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result};
use fdbox_lab::event::EventPort;
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::Io;
use serde_json::json;

use super::guest::{asked, take_over, update_under};
use super::reports::{healthy, same_guest};
use super::{Cx, Scenario, privileges};
use crate::check::equal;
use crate::guest::{Guest, Spec, VMM};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "devices/across-a-kexec",
        about: "disk and TCP connection of a guest continue under a new kernel",
        host: HostKind::Guest,
        stages: &[kexec_before, kexec_after],
    },
    &Scenario {
        name: "devices/another-binary",
        about: "disk and TCP connection of a guest continue under another VMM",
        host: HostKind::GuestAlone,
        stages: &[binary],
    },
];

/// The guest of the demo.
fn spec() -> Spec {
    Spec {
        number: Some(0),
        ..asked("demo", 256)
    }
}

fn kexec_before(cx: &Cx<'_>) -> Result<()> {
    update_under(cx, spec())
}

fn kexec_after(cx: &Cx<'_>) -> Result<()> {
    let mut guest = take_over(cx, spec())?;
    cx.value("io", end_io(&mut guest)?)?;
    guest.power_off()
}

fn binary(cx: &Cx<'_>) -> Result<()> {
    replace_the_vmm(cx, spec(), &[])
}

/// Boots a guest, has another VMM take it over, and ends it.
fn replace_the_vmm(cx: &Cx<'_>, spec: Spec, arguments: &[&str]) -> Result<()> {
    let guest = Guest::boot(spec, &Arc::new(EventPort::open()?))?;
    replace_the_vmm_of(cx, guest, arguments)
}

/// The same for an existing guest.
pub(super) fn replace_the_vmm_of(cx: &Cx<'_>, mut guest: Guest, arguments: &[&str]) -> Result<()> {
    healthy(&guest.report()?)?;
    guest.console.wait_for_io(None)?;
    guest.reset_gap()?;
    let before = guest.report()?;
    cx.value("witness", &before)?;
    cx.value("vmm", privileges::vmm_status(&guest.spec.api())?)?;
    guest.upgrade(VMM, arguments)?.expect(0)?;
    let after = guest.report()?;
    let report = guest.resume_report()?;
    same_guest(&before, &after)?;
    cx.value("witness", after)?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    equal(
        "The host's boot_id",
        &report["host"]["boot_id"],
        &json!(boot_id.trim()),
    )?;
    cx.value("resume", report)?;
    cx.value("vmm", privileges::vmm_status(&guest.spec.api())?)?;
    guest.write(77)?;
    healthy(&guest.report()?)?;
    cx.value("io", end_io(&mut guest)?)?;
    let runner = guest.runner()?;
    guest.power_off_under(&runner)
}

/// Lets the guest continue for a while and then stop its work.
pub(super) fn end_io(guest: &mut Guest) -> Result<Io> {
    let io = guest.console.io()?;
    guest.console.wait_for_io(Some(&io))?;
    guest
        .console
        .end_io()
        .context("The end of disk and network")
}
