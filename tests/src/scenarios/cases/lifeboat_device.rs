//! Guests that drive passed-through devices in a lifeboat while their host kexecs.

use std::path::Path;

use anyhow::{Result, ensure};
use fdbox_lab::device::{IOMMU, NOTED, NVME};
use fdbox_lab::scenario::HostKind;

use super::lifeboat_update::{boot_with, come, leave, spec as afloat, there_and_back};
use super::passthrough_guest::goes_on;
use super::passthrough_nvme::ends_writing;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::Spec;
use crate::host;
use crate::passthrough::{pci, registers};

pub(super) const ALL: &[&Scenario] = &[&CARD, &DRIVE];

const CARD: Scenario = Scenario {
    name: "lifeboat/device",
    about: "a guest gets frames from its card in the boat of a host that does not jump, back in that host, and in a \
            boat while its host kexecs: none is lost, repeated or torn",
    host: HostKind::GuestLifeboatPassthrough,
    stages: &[leaves, comes_home],
};

const DRIVE: Scenario = Scenario {
    name: "lifeboat/nvme",
    about: "a guest in a boat writes to its NVMe drive while its host kexecs: no block is lost, repeated or torn",
    host: HostKind::GuestLifeboatNvme,
    stages: &[leaves_with_drive, comes_home_with_drive],
};

/// A register that was hardly ever read shows nothing.
const READS: u64 = 10_000;

fn spec() -> Spec {
    Spec {
        // The other kind of memory cannot be mapped for a device.
        ram: "memfd".to_owned(),
        ..afloat()
    }
}

fn leaves(cx: &Cx<'_>) -> Result<()> {
    let place = pci::nic()?;
    let mut guest = boot_with(spec(), &pci::to_pass_through(&place)?)?;
    let before = guest.console.wait_for_frames(None)?;
    cx.value(NOTED, registers::note_card(&place)?)?;
    let mut guest = there_and_back(guest)?;
    guest.console.wait_for_frames(Some(&before))?;
    cx.value(
        "reads of a register, wrong ones",
        guest.console.registers()?,
    )?;
    leave(cx, guest)
}

fn comes_home(cx: &Cx<'_>) -> Result<()> {
    // Nobody has opened the device in this kernel, and the guest's driver, which runs in the boat, does not set
    // these registers again.
    let place = pci::nic()?;
    cx.value(NOTED, registers::note_card(&place)?)?;
    cx.value(IOMMU, pci::translated_by()?)?;
    takes_frames_in_the_boat(&place)?;
    let mut guest = come(cx, spec())?;
    // One that its host sizes reads as all ones meanwhile, and so does one below a bridge that does not decode.
    let (reads, wrong) = guest.console.registers()?;
    cx.value("reads of a register, wrong ones", (reads, wrong))?;
    ensure!(
        reads > READS,
        "The guest has read a register only {reads} times"
    );
    equal("The wrong reads of a register", wrong, 0)?;
    goes_on(cx, &mut guest, &place)?;
    guest.power_off()
}

/// The guest cannot be asked before it is home. But its driver gives the card new buffers for those that it has taken
/// frames from, and nothing in this kernel does.
fn takes_frames_in_the_boat(place: &Path) -> Result<()> {
    let tail = registers::receive_tail(place)?;
    host::until("The guest takes frames in the boat", || {
        Ok(registers::receive_tail(place)? != tail)
    })
}

fn leaves_with_drive(cx: &Cx<'_>) -> Result<()> {
    let place = pci::nvme()?;
    let mut guest = boot_with(spec(), &pci::to_pass_through(&place)?)?;
    cx.value(NVME, guest.console.wait_for_nvme(None)?)?;
    cx.value(NOTED, registers::note_nvme(&place)?)?;
    leave(cx, guest)
}

fn comes_home_with_drive(cx: &Cx<'_>) -> Result<()> {
    let place = pci::nvme()?;
    cx.value(NOTED, registers::note_nvme(&place)?)?;
    let guest = come(cx, spec())?;
    ends_writing(cx, guest, &place)
}
