//! A guest that drives a passed-through NVMe drive through an update, with its own kernel's driver,
//! and never waits for its requests to complete.

use std::path::Path;

use anyhow::Result;
use fdbox_lab::device::{NOTED, NVME};
use fdbox_lab::scenario::HostKind;

use super::guest::{asked, port, take_over, update_a};
use super::reports::healthy;
use super::{Cx, Scenario};
use crate::guest::{Guest, Spec};
use crate::passthrough::{pci, registers};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "passthrough/nvme",
    about: "a guest's NVMe drive completes requests in flight during the kexec: no \
                block is lost, repeated or torn",
    host: HostKind::GuestNvme,
    stages: &[before, after],
}];

fn spec() -> Spec {
    Spec {
        // The other kind of memory cannot be mapped for a device.
        ram: "memfd".to_owned(),
        ..asked("nvme", 128)
    }
}

fn before(cx: &Cx<'_>) -> Result<()> {
    let place = pci::nvme()?;
    let mut guest = Guest::boot_with(spec(), &pci::to_pass_through(&place)?, &port()?)?;
    cx.value(NVME, guest.console.wait_for_nvme(None)?)?;
    cx.value(NOTED, registers::note_nvme(&place)?)?;
    update_a(cx, guest)
}

fn after(cx: &Cx<'_>) -> Result<()> {
    // Nothing has accessed the drive yet, and the guest is paused: all registers are as the driver
    // left them.
    let place = pci::nvme()?;
    cx.value(NOTED, registers::note_nvme(&place)?)?;
    let guest = take_over(cx, spec())?;
    ends_writing(cx, guest, &place)
}

/// The guest, which runs in the next kernel, goes on writing, and ends.
pub(super) fn ends_writing(cx: &Cx<'_>, mut guest: Guest, place: &Path) -> Result<()> {
    let after = guest.console.nvme()?;
    cx.value(NVME, &after)?;
    guest.console.wait_for_nvme(Some(&after))?;
    cx.value(NOTED, registers::note_nvme(place)?)?;
    cx.value(NVME, guest.console.end_nvme()?)?;
    // A request that timed out would be in its kernel's log.
    healthy(&guest.report()?)?;
    guest.power_off()
}
