//! The same devices as elsewhere, under VT-d in scalable mode.

use anyhow::{Context, Result, ensure};
use fdbox_lab::interface;
use fdbox_lab::scenario::HostKind;

use super::passthrough::{
    BOX, FRAMES, after, another_driver, before, given_up, is_refused_without, outside_after,
    still_waits, two_after, two_before,
};
use super::passthrough_stopped::stopped;
use super::{Cx, Scenario};
use crate::fdbox::FdBox;
use crate::host;
use crate::passthrough::pci;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "passthrough/scalable",
        about: "scalable mode: no kexec to a kernel that does not support it; otherwise no \
                frame is lost, repeated or torn",
        host: HostKind::PassthroughScalable,
        stages: &[before_refused, after],
    },
    &Scenario {
        name: "passthrough/scalable-three-kernels",
        about: "scalable mode: the same through two kexecs, without taking the device out in \
                between",
        host: HostKind::PassthroughScalable,
        stages: &[before, between, after],
    },
    &Scenario {
        name: "passthrough/scalable-two-devices",
        about: "scalable mode: two devices of one iommufd, with one page table",
        host: HostKind::PassthroughScalable,
        stages: &[two_before, two_after],
    },
    &Scenario {
        name: "passthrough/scalable-outside",
        about: "scalable mode: DMA to unmapped addresses faults in the next kernel, before \
                and after the device is taken out",
        host: HostKind::PassthroughScalable,
        stages: &[before, outside_after],
    },
    &Scenario {
        name: "passthrough/scalable-nobody-takes-it",
        about: "scalable mode: a device whose box is deleted stops before its memory is freed",
        host: HostKind::PassthroughScalable,
        stages: &[before, given_up],
    },
    &Scenario {
        name: "passthrough/scalable-another-driver",
        about: "scalable mode: a device that root bound to another driver is stopped as well",
        host: HostKind::PassthroughScalable,
        stages: &[before, another_driver],
    },
    &Scenario {
        name: "passthrough/scalable-stopped",
        about: "scalable mode: a device that fails while GET_FD opens it, and one that root \
                stops",
        host: HostKind::PassthroughScalable,
        stages: &[two_before, stopped],
    },
    &Scenario {
        name: "passthrough/scalable-identity",
        about: "scalable mode: a device that nobody took works with its own driver, under a \
                kernel that lets its devices reach all memory",
        host: HostKind::PassthroughScalableIdentity,
        stages: &[before, own_driver],
    },
    &Scenario {
        name: "passthrough/first-stage",
        about: "first-stage page tables: no frame is lost, repeated or torn",
        host: HostKind::PassthroughFirstStage,
        stages: &[before_refused, after],
    },
    &Scenario {
        name: "passthrough/first-stage-outside",
        about: "first-stage page tables: DMA to unmapped addresses faults in the next kernel",
        host: HostKind::PassthroughFirstStage,
        stages: &[before, outside_after],
    },
    &Scenario {
        name: "passthrough/from-scalable",
        about: "a next kernel that is told to use legacy mode stays in scalable mode for the \
                device",
        host: HostKind::PassthroughFromScalable,
        stages: &[before, after_scalable],
    },
    &Scenario {
        name: "passthrough/to-scalable",
        about: "a next kernel that is told to use scalable mode stays in legacy mode for the \
                device",
        host: HostKind::PassthroughToScalable,
        stages: &[before, after_legacy],
    },
];

/// What the next kernel must take over: PCI devices, and VT-d in both modes.
const SCALABLE: u32 = 0x103;
/// The last of them alone.
const SCALABLE_MODE: u32 = 0x100;

fn before_refused(cx: &Cx<'_>) -> Result<()> {
    before(cx)?;
    is_refused_without(SCALABLE_MODE, SCALABLE)
}

fn between(_: &Cx<'_>) -> Result<()> {
    still_waits(SCALABLE)
}

/// A translation that the device came with would lead its driver's DMA astray.
fn own_driver(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    fdbox.unseal()?;
    fdbox.delete()?;
    let place = pci::nic()?;
    host::load_module("e1000e")?;
    pci::give_to(&place, "e1000e")?;
    let card = std::fs::read_dir(place.join("net"))?;
    let card = card.last().context("The device has no interface")??;
    let name = card.file_name().to_string_lossy().into_owned();
    interface::switch_on(&name).with_context(|| format!("Switch {name} on"))?;
    let count = card.path().join("statistics/rx_packets");
    host::until("Frames for the driver", || {
        let frames: u64 = std::fs::read_to_string(&count)?.trim().parse()?;
        Ok(frames >= FRAMES)
    })
}

fn after_scalable(cx: &Cx<'_>) -> Result<()> {
    keeps_mode("Scalable")?;
    after(cx)
}

fn after_legacy(cx: &Cx<'_>) -> Result<()> {
    keeps_mode("Legacy")?;
    after(cx)
}

/// The kernel must have reported that it does not use the mode that it was told to.
fn keeps_mode(mode: &str) -> Result<()> {
    let wanted = format!("DMAR: {mode} mode, as devices came with DMA going on in it");
    let log = host::whole_kernel_log()?;
    ensure!(
        log.iter().any(|line| line.contains(&wanted)),
        "The kernel did not stay in the mode of the last one"
    );
    Ok(())
}
