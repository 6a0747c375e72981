//! A guest that drives a passed-through device through an update, with its own kernel's driver.

use std::path::Path;

use anyhow::Result;
use fdbox_lab::device::{FRAMES, IOMMU, NOTED};
use fdbox_lab::scenario::HostKind;

use super::devices::end_io;
use super::guest::{asked, port, take_over, update_a};
use super::{Cx, Scenario};
use crate::guest::{Guest, Spec};
use crate::passthrough::{pci, registers};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "passthrough/guest",
        about: "a guest's card receives through the kexec: no frame is lost, repeated or torn",
        host: HostKind::GuestPassthrough,
        stages: &[before, after],
    },
    &Scenario {
        name: "passthrough/scalable-guest",
        about: "the same under VT-d in scalable mode",
        host: HostKind::GuestPassthroughScalable,
        stages: &[before, after],
    },
    &Scenario {
        name: "passthrough/amd-guest",
        about: "the same under AMD-Vi",
        host: HostKind::GuestPassthroughAmdVi,
        stages: &[before, after],
    },
];

/// With disk and network, too: all of them continue together.
fn spec() -> Spec {
    Spec {
        number: Some(0),
        // The other kind of memory cannot be mapped for a device.
        ram: "memfd".to_owned(),
        ..asked("passthrough", 256)
    }
}

fn before(cx: &Cx<'_>) -> Result<()> {
    let place = pci::nic()?;
    let mut guest = Guest::boot_with(spec(), &pci::to_pass_through(&place)?, &port()?)?;
    guest.console.wait_for_frames(None)?;
    cx.value(NOTED, registers::note_card(&place)?)?;
    update_a(cx, guest)
}

fn after(cx: &Cx<'_>) -> Result<()> {
    // Nothing has accessed the device yet, and the guest is paused: all registers are as the driver
    // left them.
    let place = pci::nic()?;
    cx.value(NOTED, registers::note_card(&place)?)?;
    cx.value(IOMMU, pci::translated_by()?)?;
    let mut guest = take_over(cx, spec())?;
    goes_on(cx, &mut guest, &place)?;
    cx.value("io", end_io(&mut guest)?)?;
    guest.power_off()
}

/// The guest still gets frames. Sends the lab its last count, and the last look at its card.
pub(super) fn goes_on(cx: &Cx<'_>, guest: &mut Guest, place: &Path) -> Result<()> {
    let frames = guest.console.wait_for_frames(None)?;
    let frames = guest.console.wait_for_frames(Some(&frames))?;
    cx.value(FRAMES, frames)?;
    cx.value(NOTED, registers::note_card(place)?)
}
