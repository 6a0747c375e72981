//! Devices that arrive with active DMA and cannot continue: they are stopped before anything else
//! can happen, and are ordinary devices afterwards.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::passthrough::{BOX, FRAMES, does_not_seal, two_before};
use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::host;
use crate::passthrough::vfio::Iommufd;
use crate::passthrough::{Rig, nic, pci};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "passthrough/stopped",
    about: "a device that fails while GET_FD opens it, and one that root stops: no \
                stray DMA, and both can be used again",
    host: HostKind::Passthrough,
    stages: &[two_before, stopped],
}];

/// Makes the enabling of the device's first region fail.
const UNSET: &str = "fdbox_unset";

pub(super) fn stopped(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    fdbox.unseal()?;
    let places = pci::nics()?;
    let [first, second] = places.as_slice() else {
        anyhow::bail!("The host has {} cards", places.len());
    };
    stopped_by_root(second)?;
    let memory = File::from(fdbox.get("ring")?);
    let second_memory = File::from(fdbox.get("second-ring")?);
    let iommufd = Iommufd::from_fd(fdbox.get("iommufd")?);
    let gone = fdbox.try_get("second-nic");
    fails("GET_FD of what root stopped", gone, Errno::IO)?;

    let address = pci::address(first);
    host::load_module_with(UNSET, &format!("device={address}"))?;
    fails("GET_FD, opening fails", fdbox.try_get("nic"), Errno::INVAL)?;
    is_stopped(first)?;
    let unloaded = Command::new("/bin/rmmod").arg(UNSET).status()?;
    ensure!(unloaded.success(), "{UNSET} cannot be unloaded");
    let wanted = format!("{address}: could not be adopted and is stopped");
    host::wait_for_log(|log| log.iter().any(|line| line.contains(&wanted)))?;
    // The entry remains, but there is nothing left to take out or to hand over.
    fails("GET_FD once more", fdbox.try_get("nic"), Errno::IO)?;
    fdbox.put(memory, "ring")?;
    fdbox.put(second_memory, "second-ring")?;
    fdbox.put(iommufd.into_fd(), "iommufd")?;
    does_not_seal(&fdbox, Errno::IO, "nic", "")?;
    fdbox.delete()?;

    // An ordinary device: it receives any frames.
    let rig = Rig::set_up()?;
    let frames = nic::wait_for(&rig.memory, FRAMES)?;
    nic::check_frames(&rig.memory, frames).map(drop)
}

/// `kept` of a device in sysfs.
pub(super) fn kept(place: &Path) -> Result<String> {
    let text = fs::read_to_string(place.join("kept")).context("Read kept")?;
    Ok(text.trim().to_owned())
}

pub(super) fn is_stopped(place: &Path) -> Result<()> {
    equal("Bus mastering", pci::is_master(place)?, false)?;
    equal("Whether it waits", kept(place)?, "0".into())
}

fn stopped_by_root(place: &Path) -> Result<()> {
    let write = |text: &str| {
        let result = fs::write(place.join("kept"), text);
        result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    };
    equal("Whether it waits", kept(place)?, "1".into())?;
    fails("Keeping it", write("1"), Errno::INVAL)?;
    equal("Bus mastering", pci::is_master(place)?, true)?;
    write("0").context("Stop the device")?;
    is_stopped(place)?;
    fails("Stopping it again", write("0"), Errno::NODEV)
}
