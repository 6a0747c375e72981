//! Devices and their iommufd with failing allocations, in the kernel in which they are put into a box
//! and in the next: ENOMEM, and nothing has changed, or the device is stopped.

use std::fs::File;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::passthrough::{BOX, FRAMES, two_before};
use super::passthrough_stopped::{is_stopped, kept};
use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::failing::{Quiet, Switches, at_last, at_last_with, one_by_one, set_up_failures};
use crate::fdbox::{self, FdBox};
use crate::passthrough::vfio::{Iommufd, VfioDevice};
use crate::passthrough::{Rig, nic, pci};
use crate::uapi;

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "passthrough/each-call-fails",
    about: "each ioctl on a device and its iommufd is called repeatedly, with one allocation \
            after the other failing: ENOMEM, and either nothing has changed or the device is stopped",
    host: HostKind::FailingPassthrough,
    stages: &[before, after],
}];

/// The iommufd of the debug kernel (CONFIG_IOMMUFD_TEST) has also its look-ups of objects fail, which
/// then finds none.
const FAILED: [Errno; 2] = [Errno::NOMEM, Errno::NOENT];
/// More allocations than opening a device needs.
const MOST: u32 = 2000;
/// The second device is opened with one of the next so many failing.
const LATER: u64 = 60;

fn is(state: u32, fds: u32) -> Result<()> {
    let listed = fdbox::listed(BOX)?.context("The box in the list")?;
    equal("State and number", (listed.state, listed.fds), (state, fds))
}

/// The call that succeeds closes the number.
fn put(fdbox: &FdBox, fd: OwnedFd, name: &str, already: u32) -> Result<u32> {
    let number = fd.into_raw_fd();
    let put = || fdbox.try_put_number(number, name);
    let ((), failures) = at_last(name, put, || is(uapi::STATE_OPEN, already))?;
    Ok(failures)
}

fn before(cx: &Cx<'_>) -> Result<()> {
    set_up_failures()?;
    let rig = Rig::set_up()?;
    let fdbox = FdBox::create(BOX)?;
    let quiet = Quiet::begin()?;
    let puts = [
        put(&fdbox, rig.device.another()?.into_fd(), "nic", 0)?,
        put(&fdbox, rig.iommufd.another()?.into_fd(), "iommufd", 1)?,
        put(&fdbox, rig.memory.try_clone()?.into(), "ring", 2)?,
    ];
    let info = fdbox::info()?;
    let open = || {
        equal("What the handover keeps", fdbox::info()?, info)?;
        nic::check_untouched(&rig.device)?;
        is(uapi::STATE_OPEN, 3)
    };
    let ((), seal) = at_last("SEAL", || fdbox.try_seal(), open)?;
    let info = fdbox::info()?;
    let sealed = || {
        equal("What the handover keeps", fdbox::info()?, info)?;
        nic::check_untouched(&rig.device)?;
        is(uapi::STATE_SEALED, 3)
    };
    sealed()?;
    let ((), unseal) = at_last("UNSEAL", || fdbox.try_unseal(), sealed)?;
    open()?;
    let one = one_by_one("SEAL", || fdbox.try_seal(), open, |()| fdbox.unseal())?;
    let left = |count| move || is(uapi::STATE_OPEN, count);
    let get = [
        at_last("GET_FD of memory", || fdbox.try_get("ring"), left(3))?.1,
        at_last("GET_FD of an iommufd", || fdbox.try_get("iommufd"), left(2))?.1,
        at_last("GET_FD of a device", || fdbox.try_get("nic"), left(1))?.1,
    ];
    quiet.end()?;
    nic::check_untouched(&rig.device)?;
    let frames = nic::filled(&rig.memory)?;
    let frames = nic::wait_for(&rig.memory, frames + FRAMES)?;
    nic::check_frames(&rig.memory, frames)?;
    cx.value("failures of each call", (puts, [seal, unseal, one], get))?;
    let least = puts.into_iter().chain([seal, one]).min();
    ensure!(least > Some(0), "No allocation failed");
    fdbox.delete()?;
    drop(rig);
    two_before(cx)
}

fn after(cx: &Cx<'_>) -> Result<()> {
    set_up_failures()?;
    let fdbox = FdBox::open(BOX)?;
    let quiet = Quiet::begin()?;
    let sealed = || {
        equal("What is lost", fdbox.lost()?, Vec::new())?;
        is(uapi::STATE_SEALED, 5)
    };
    let again = |()| {
        fdbox.seal()?;
        sealed()
    };
    let unseal = one_by_one("UNSEAL", || fdbox.try_unseal(), sealed, again)?;
    fdbox.unseal()?;
    let left = |count| move || is(uapi::STATE_OPEN, count);
    let (memory, ring) = at_last("GET_FD of memory", || fdbox.try_get("ring"), left(5))?;
    let (other, _) = at_last("GET_FD of memory", || fdbox.try_get("second-ring"), left(4))?;
    let get = || fdbox.try_get("iommufd");
    let (context, iommufd) = at_last_with("GET_FD of an iommufd", &FAILED, get, left(3))?;
    let iommufd_held = Iommufd::from_fd(context);
    let memory = [File::from(memory), File::from(other)];
    let places = pci::nics()?;
    // The first failure while a device is being opened stops it: each boot tries another one.
    let firsts = [1, 2 + (fdbox_lab::tsc() % LATER) as u32];
    let mut devices = Vec::new();
    let mut tried = Vec::new();
    for (at, name) in ["nic", "second-nic"].into_iter().enumerate() {
        // The entry of a device that was stopped stays.
        let left = 2 - devices.iter().flatten().count() as u32;
        let (device, last) = get_device(&fdbox, name, &places[at], left, firsts[at])?;
        tried.push((firsts[at], last, device.is_some()));
        if let Some(device) = &device {
            nic::check_untouched(device)?;
            let frames = nic::filled(&memory[at])?;
            let frames = nic::wait_for(&memory[at], frames + FRAMES)?;
            nic::check_frames(&memory[at], frames)?;
        }
        devices.push(device);
    }
    quiet.end()?;
    cx.value("failures of each call", [unseal, ring, iommufd])?;
    cx.value(
        "first and last failure of GET_FD, and whether it succeeded",
        tried,
    )?;
    ensure!(unseal > 0 && ring > 0, "No allocation failed");
    drop((devices, iommufd_held));
    fdbox.delete()
}

/// Gets a device, with one allocation after the other failing from `first` on. After a failure either
/// the device waits and its DMA goes on, or it has been stopped. Returns also which allocation failed
/// last. Only one fails at a time: with none at all the IOMMU's driver cannot give the device back to
/// the kernel, and warns, for any device of VFIO.
fn get_device(
    fdbox: &FdBox,
    name: &str,
    place: &Path,
    left: u32,
    first: u32,
) -> Result<(Option<VfioDevice>, u32)> {
    let switches = Switches::open()?;
    let mut get = || fdbox.try_get(name);
    for nth in first..MOST {
        let at = || format!("GET_FD of {name}, the allocation {nth} failing");
        match switches.call(nth, false, &mut get)? {
            (Ok(device), _) => return Ok((Some(VfioDevice::from_fd(device)?), nth)),
            (Err(error), _) if FAILED.contains(&error) => {
                is_as_it_says(fdbox, name, place, left).with_context(at)?
            }
            (Err(error), _) => return Err(error).with_context(at),
        }
        if kept(place)? == "0" {
            return Ok((None, nth));
        }
    }
    bail!("GET_FD of {name}: there is no end of allocations")
}

/// A GET_FD that failed leaves the entry, whether the device waits or has been stopped.
fn is_as_it_says(fdbox: &FdBox, name: &str, place: &Path, left: u32) -> Result<()> {
    is(uapi::STATE_OPEN, left)?;
    match kept(place)?.as_str() {
        "1" => equal("Bus mastering", pci::is_master(place)?, true),
        _ => {
            is_stopped(place)?;
            fails("GET_FD once more", fdbox.try_get(name), Errno::IO)
        }
    }
}
