//! A device that continues DMA while the host is replaced.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario, jump_refused};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::kexec::Image;
use crate::memory::{self, MIB};
use crate::passthrough::Rig;
use crate::passthrough::nic::{self, IOVA, MEMORY_LEN};
use crate::passthrough::pci::{self, List};
use crate::passthrough::vfio::{self, Iommufd, VfioDevice};
use crate::{host, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "passthrough/dma-through-a-kexec",
        about: "a device receives continuously: no kexec to a kernel that does not support \
                it; otherwise no frame is lost, repeated or torn",
        host: HostKind::Passthrough,
        stages: &[before_refused, after],
    },
    &Scenario {
        name: "passthrough/three-kernels",
        about: "the same through two kexecs, without taking the device out in between",
        host: HostKind::Passthrough,
        stages: &[before, between, after],
    },
    &Scenario {
        name: "passthrough/second-try",
        about: "a process that takes out half of a box puts it back: all of it goes on into \
                another kernel",
        host: HostKind::Passthrough,
        stages: &[before, half_taken, after],
    },
    &Scenario {
        name: "passthrough/two-devices",
        about: "two devices of one iommufd, with one page table: one is taken out long before the other",
        host: HostKind::Passthrough,
        stages: &[two_before, two_after],
    },
    &Scenario {
        name: "passthrough/outside-the-mappings",
        about: "DMA to unmapped addresses faults in the next kernel, before and after the \
                device is taken out",
        host: HostKind::Passthrough,
        stages: &[before, outside_after],
    },
    &Scenario {
        name: "passthrough/nobody-takes-it",
        about: "a device whose box is deleted stops before its memory is freed",
        host: HostKind::Passthrough,
        stages: &[before, given_up],
    },
    &Scenario {
        name: "passthrough/another-driver",
        about: "a device that root bound to another driver is stopped as well, and the log \
                reports what is left",
        host: HostKind::Passthrough,
        stages: &[before, another_driver],
    },
];

pub(super) const BOX: &str = "passthrough";
/// The number of frames that must arrive before a step continues.
pub(super) const FRAMES: u64 = 40;
/// What the next kernel must take over: PCI devices, and VT-d in legacy mode.
const LEGACY: u32 = 0x3;
/// The list of kept devices of docs/handover-abi.md with 0000:01:00.0, written by hand, but for what translates.
const LIST: [u8; 20] = *b"IPCIKP1\0\x01\0\0\0\0\0\0\0\0\x01\0\0";
const TRANSLATES_AT: usize = 12;
/// The bit for PCI devices in what a next kernel takes over. The list has the others.
const PCI: u32 = 0x1;
/// Where in the ring's memory a stage records how many frames it saw: before the ring.
const NOTE_AT: u64 = 0;

fn note(memory: &File, frames: u64) -> Result<()> {
    Ok(memory.write_all_at(&frames.to_le_bytes(), NOTE_AT)?)
}

pub(super) fn noted(memory: &File) -> Result<u64> {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, NOTE_AT)?;
    Ok(u64::from_le_bytes(bytes))
}

pub(super) fn before(_: &Cx<'_>) -> Result<()> {
    let rig = Rig::set_up()?;
    let fdbox = FdBox::create(BOX)?;
    rig.put(&fdbox)?;
    let unsealed = nic::wait_for(&rig.memory, FRAMES)?;
    fdbox.seal()?;
    let sealed = nic::wait_for(&rig.memory, unsealed + FRAMES)?;
    nic::check_frames(&rig.memory, sealed)?;
    note(&rig.memory, nic::filled(&rig.memory)?)
}

fn before_refused(cx: &Cx<'_>) -> Result<()> {
    before(cx)?;
    is_refused(LEGACY)
}

/// Where the next kernel must take this over, the list says so, and no other kernel is entered.
pub(super) fn is_refused(needs: u32) -> Result<()> {
    let mut list = LIST;
    list[TRANSLATES_AT..][..4].copy_from_slice(&(needs & !PCI).to_le_bytes());
    equal("The list", pci::kept_list(List::Out)?, list.to_vec())?;
    jump_refused::is_refused_to_devices(needs)
}

/// The same, and nor is one that lacks a part of it.
pub(super) fn is_refused_without(part: u32, needs: u32) -> Result<()> {
    is_refused(needs)?;
    jump_refused::refuses(&Image::next()?.without(part)?, part)?;
    host::unload_next_kernel()
}

fn between(_: &Cx<'_>) -> Result<()> {
    still_waits(LEGACY)
}

/// The device continues without any software.
pub(super) fn still_waits(missing: u32) -> Result<()> {
    jump_refused::is_refused_to_devices(missing)?;
    let fdbox = FdBox::open(BOX)?;
    equal("The number of descriptors", fdbox.entries()?.len(), 3)?;
    equal("Bus mastering", pci::is_master(&pci::nic()?)?, true)
}

pub(super) fn half_taken(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    fdbox.unseal()?;
    let memory = fdbox.get("ring")?;
    let iommufd = fdbox.get("iommufd")?;
    does_not_seal(&fdbox, Errno::OPNOTSUPP, "nic", "put them in again")?;
    fdbox.put(memory, "ring")?;
    does_not_seal(&fdbox, Errno::OPNOTSUPP, "nic", "put them in again")?;
    fdbox.put(iommufd, "iommufd")?;
    fdbox.seal()
}

pub(super) fn after(cx: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    equal("The driver", pci::driver()?.as_deref(), Some("vfio-pci"))?;
    equal("Bus mastering", pci::is_master(&pci::nic()?)?, true)?;
    fdbox.unseal()?;
    // Nothing else can access it, and it comes out last.
    let other = Iommufd::open()?;
    let stolen = VfioDevice::open(&pci::node(&pci::nic()?)?, &other);
    ensure!(stolen.is_err(), "Somebody else could open the device");
    fails(
        "GET_FD of the device first",
        fdbox.try_get("nic"),
        Errno::AGAIN,
    )?;
    fails(
        "GET_FD of the iommufd first",
        fdbox.try_get("iommufd"),
        Errno::AGAIN,
    )?;

    let memory = File::from(fdbox.get("ring")?);
    let seen = noted(&memory)?;
    let meanwhile = nic::wait_for(&memory, seen + FRAMES)? - seen;
    let iommufd = Iommufd::from_fd(fdbox.get("iommufd")?);
    // The lowest free id is the one the device had.
    let in_its_place = iommufd.ioas()?;
    fails(
        "GET_FD of a device whose id is taken",
        fdbox.try_get("nic"),
        Errno::BUSY,
    )?;
    iommufd.destroy(in_its_place)?;
    let rig = Rig {
        memory,
        iommufd,
        ioas: 1,
        device: VfioDevice::from_fd(fdbox.get("nic")?)?,
    };
    nic::check_untouched(&rig.device)?;
    let taken = nic::filled(&rig.memory)?;
    let received = nic::wait_for(&rig.memory, taken + FRAMES)?;
    let first = nic::check_frames(&rig.memory, received)?;
    cx.value(
        "passthrough",
        serde_json::json!({
            "first": first, "received": received, "while_nobody_had_it": meanwhile,
        }),
    )?;

    // It is the same IOAS, and otherwise an ordinary one.
    let more = memory::memfd(c"more", MIB)?;
    let elsewhere = IOVA + 2 * MEMORY_LEN;
    let taken = rig.iommufd.map(rig.ioas, &more, MIB, IOVA);
    fails("Mapping where the memory is", taken, Errno::EXIST)?;
    rig.iommufd.map(rig.ioas, &more, MIB, elsewhere)?;
    rig.iommufd.unmap(rig.ioas, elsewhere, MIB)?;
    drop(rig);
    equal(
        "Bus mastering of a closed device",
        pci::is_master(&pci::nic()?)?,
        false,
    )?;
    fdbox.delete()
}

/// The address of the second device's memory.
const SECOND_IOVA: u64 = IOVA + 4 * MEMORY_LEN;

pub(super) fn two_before(_: &Cx<'_>) -> Result<()> {
    let rig = Rig::set_up()?;
    let second_memory = nic::memory(SECOND_IOVA)?;
    rig.iommufd
        .map(rig.ioas, &second_memory, MEMORY_LEN, SECOND_IOVA)?;
    let places = pci::nics()?;
    let place = places.get(1).context("The host has no second e1000e")?;
    let second = VfioDevice::open(&pci::give_to_vfio(place)?, &rig.iommufd)?;
    second.attach(rig.ioas)?;
    nic::start(&second, SECOND_IOVA)?;

    let fdbox = FdBox::create(BOX)?;
    rig.put(&fdbox)?;
    fdbox.put(second.into_fd(), "second-nic")?;
    fdbox.put(second_memory.try_clone()?, "second-ring")?;
    fdbox.seal()?;
    note(&rig.memory, nic::wait_for(&rig.memory, FRAMES)?)?;
    note(&second_memory, nic::wait_for(&second_memory, FRAMES)?)
}

pub(super) fn two_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    fdbox.unseal()?;
    let second_memory = File::from(fdbox.get("second-ring")?);
    let rig = Rig::take(&fdbox, 1)?;
    nic::check_untouched(&rig.device)?;
    // The second device still uses the page tables of the last kernel, which the first no longer
    // uses.
    for memory in [&rig.memory, &second_memory] {
        let frames = nic::filled(memory)?;
        ensure!(frames > noted(memory)?, "No frame came meanwhile");
        nic::wait_for(memory, frames + FRAMES)?;
    }
    let second = VfioDevice::from_fd(fdbox.get("second-nic")?)?;
    nic::check_untouched(&second)?;
    for memory in [&rig.memory, &second_memory] {
        let frames = nic::filled(memory)?;
        let frames = nic::wait_for(memory, frames + FRAMES)?;
        nic::check_frames(memory, frames)?;
    }
    drop((rig, second));
    fdbox.delete()
}

/// After this many more frames the device is misdirected.
const ASTRAY: u64 = 40;

pub(super) fn outside_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    fdbox.unseal()?;
    let memory = File::from(fdbox.get("ring")?);
    equal("Faults so far", faults(&host::whole_kernel_log()?), 0)?;
    let astray = nic::filled(&memory)? + ASTRAY;
    nic::misdirect(&memory, astray)?;
    // According to the page tables of the last kernel.
    host::wait_for_log(|log| faults(log) > 0).context("Before the device is taken out")?;
    let iommufd = Iommufd::from_fd(fdbox.get("iommufd")?);
    let device = VfioDevice::from_fd(fdbox.get("nic")?)?;
    nic::check_untouched(&device)?;
    let before = faults(&host::whole_kernel_log()?);
    host::wait_for_log(|log| faults(log) > before).context("After it was taken out")?;
    // The correctly addressed frames arrived.
    nic::check_frames(&memory, astray)?;
    drop((device, iommufd));
    fdbox.delete()
}

/// Lines by which VT-d or AMD-Vi reports a DMA fault of a device.
fn faults(log: &[String]) -> usize {
    let is_fault = |line: &&String| {
        let is_of_vtd = line.contains("DMAR: [DMA Write") && line.contains("fault addr");
        is_of_vtd || line.contains("AMD-Vi: Event logged [IO_PAGE_FAULT")
    };
    log.iter().filter(is_fault).count()
}

pub(super) fn given_up(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    equal("Bus mastering", pci::is_master(&pci::nic()?)?, true)?;
    fdbox.unseal()?;
    fdbox.delete()?;
    equal(
        "Bus mastering of a device given up",
        pci::is_master(&pci::nic()?)?,
        false,
    )?;
    // It is an ordinary device now: it receives any frames.
    let rig = Rig::set_up()?;
    let frames = nic::wait_for(&rig.memory, FRAMES)?;
    nic::check_frames(&rig.memory, frames).map(drop)
}

pub(super) fn another_driver(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    fdbox.unseal()?;
    let place = pci::nic()?;
    host::load_module("e1000e")?;
    pci::give_to(&place, "e1000e")?;
    fdbox.delete()?;
    equal("Bus mastering", pci::is_master(&place)?, false)?;
    let wanted = format!("{}: keeps its old translation", pci::address(&place));
    let named = |log: &[String]| log.iter().any(|line| line.contains(&wanted));
    host::wait_for_log(named).context("What is left of the device")?;
    // The memory mapped by that translation was freed: nothing can access it.
    let iommufd = Iommufd::open()?;
    let node = vfio::open_node(&pci::give_to_vfio(&place)?)?;
    fails("Binding", vfio::bind(&node, &iommufd), Errno::BUSY)
}

/// SEAL must fail with `errno`, and log a message with `words` about `name`.
pub(super) fn does_not_seal(fdbox: &FdBox, errno: Errno, name: &str, words: &str) -> Result<()> {
    fails("SEAL", fdbox.try_seal(), errno)?;
    let why = fdbox.seal_error()?;
    equal("The descriptor", why.name.text(), name.to_owned())?;
    let message = uapi::text(&why.message);
    ensure!(message.contains(words), "The message is: {message}");
    Ok(())
}
