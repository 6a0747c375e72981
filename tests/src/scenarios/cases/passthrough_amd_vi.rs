//! The same devices as elsewhere, under AMD-Vi.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;

use super::passthrough::{
    BOX, after, another_driver, before, given_up, half_taken, is_refused_without, noted,
    outside_after, still_waits, two_after, two_before,
};
use super::passthrough_stopped::stopped;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::host;
use crate::passthrough::nic;
use crate::passthrough::pci;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "passthrough/amd",
        about: "AMD-Vi: no kexec to a kernel that does not support it; otherwise no frame is \
                lost, repeated or torn",
        host: HostKind::PassthroughAmdVi,
        stages: &[before_refused, after],
    },
    &Scenario {
        name: "passthrough/amd-three-kernels",
        about: "AMD-Vi: the same through two kexecs, without taking the device out in between",
        host: HostKind::PassthroughAmdVi,
        stages: &[before, between, after],
    },
    &Scenario {
        name: "passthrough/amd-second-try",
        about: "AMD-Vi: a process that takes out half of a box puts it back: all of it goes on \
                into another kernel",
        host: HostKind::PassthroughAmdVi,
        stages: &[before, half_taken, after],
    },
    &Scenario {
        name: "passthrough/amd-two-devices",
        about: "AMD-Vi: two devices of one iommufd, with one page table",
        host: HostKind::PassthroughAmdVi,
        stages: &[two_before, two_after],
    },
    &Scenario {
        name: "passthrough/amd-outside",
        about: "AMD-Vi: DMA to unmapped addresses faults in the next kernel, before and after \
                the device is taken out",
        host: HostKind::PassthroughAmdVi,
        stages: &[before, outside_after],
    },
    &Scenario {
        name: "passthrough/amd-nobody-takes-it",
        about: "AMD-Vi: a device whose box is deleted stops before its memory is freed",
        host: HostKind::PassthroughAmdVi,
        stages: &[before, given_up],
    },
    &Scenario {
        name: "passthrough/amd-another-driver",
        about: "AMD-Vi: a device that root bound to another driver is stopped as well",
        host: HostKind::PassthroughAmdVi,
        stages: &[before, another_driver],
    },
    &Scenario {
        name: "passthrough/amd-stopped",
        about: "AMD-Vi: a device that fails while GET_FD opens it, and one that root stops",
        host: HostKind::PassthroughAmdVi,
        stages: &[two_before, stopped],
    },
    &Scenario {
        name: "passthrough/amd-off",
        about: "a kernel that is told not to use AMD-Vi stops the device before it ends its \
                translation",
        host: HostKind::PassthroughAmdViOff,
        stages: &[before, not_translated],
    },
];

/// What the next kernel must take over: PCI devices, and AMD-Vi.
const AMD_VI: u32 = 0x201;
/// The latter alone.
const TRANSLATION: u32 = 0x200;

fn before_refused(cx: &Cx<'_>) -> Result<()> {
    before(cx)?;
    is_refused_without(TRANSLATION, AMD_VI)
}

fn between(_: &Cx<'_>) -> Result<()> {
    still_waits(AMD_VI)
}

fn not_translated(_: &Cx<'_>) -> Result<()> {
    let place = pci::nic()?;
    let stopped = format!(
        "AMD-Vi: {} came with DMA going on and is stopped",
        pci::address(&place)
    );
    ensure!(
        host::whole_kernel_log()?
            .iter()
            .any(|line| line.contains(&stopped)),
        "The kernel did not report that it stopped the device"
    );
    equal("Bus mastering", pci::is_master(&place)?, false)?;
    let fdbox = FdBox::open(BOX)?;
    fdbox.unseal()?;
    let memory = File::from(fdbox.get("ring")?);
    let frames = nic::filled(&memory)?;
    ensure!(frames >= noted(&memory)?, "Frames are lost that had come");
    nic::check_frames(&memory, frames).context("The frames until then")?;
    drop(memory);
    fdbox.delete()
}
