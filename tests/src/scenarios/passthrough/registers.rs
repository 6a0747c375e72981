//! The registers of a device that is driven by a guest, read at the same time: through sysfs,
//! without opening the device.

use std::ffi::c_void;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use fdbox_lab::device::{CardRegisters, Noted, NvmeRegisters};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::pci;
use crate::host;

/// The mapped part of BAR 0: both kinds of device have at least this much, and it contains all
/// registers read here.
const LEN: usize = 0x4000;

/// See the 82574 datasheet, chapter 10.
mod card {
    pub(super) const RCTL: usize = 0x100;
    pub(super) const RDBAL: usize = 0x2800;
    pub(super) const RDBAH: usize = 0x2804;
    pub(super) const RDLEN: usize = 0x2808;
    pub(super) const RDT: usize = 0x2818;
    pub(super) const TDBAL: usize = 0x3800;
}

/// See the NVM Express Base Specification, "Controller Properties".
mod nvme {
    pub(super) const CC: usize = 0x14;
    pub(super) const CSTS: usize = 0x1c;
    pub(super) const AQA: usize = 0x24;
    pub(super) const ASQ: usize = 0x28;
    pub(super) const ACQ: usize = 0x30;
}

/// Records the state of a card. It must be in D0 with its memory enabled.
pub(crate) fn note_card(place: &Path) -> Result<Noted<CardRegisters>> {
    let bar = Bar0::map(place)?;
    let registers = CardRegisters {
        rctl: bar.read(card::RCTL),
        rdbal: bar.read(card::RDBAL),
        rdbah: bar.read(card::RDBAH),
        rdlen: bar.read(card::RDLEN),
        tdbal: bar.read(card::TDBAL),
    };
    noted(place, registers)
}

/// Up to where a card's driver has filled the receive ring: it moves on as the driver takes frames out.
pub(crate) fn receive_tail(place: &Path) -> Result<u32> {
    Ok(Bar0::map(place)?.read(card::RDT))
}

/// Records the state of an NVMe drive.
pub(crate) fn note_nvme(place: &Path) -> Result<Noted<NvmeRegisters>> {
    let bar = Bar0::map(place)?;
    let registers = NvmeRegisters {
        cc: bar.read(nvme::CC),
        csts: bar.read(nvme::CSTS),
        aqa: bar.read(nvme::AQA),
        asq: bar.read_64(nvme::ASQ),
        acq: bar.read_64(nvme::ACQ),
    };
    noted(place, registers)
}

fn noted<Registers>(place: &Path, registers: Registers) -> Result<Noted<Registers>> {
    let log = host::whole_kernel_log()?;
    let resets = log.iter().filter(|line| line.ends_with(": resetting"));
    Ok(Noted {
        registers,
        bus_master: pci::is_master(place)?,
        resets_logged: resets.count(),
    })
}

/// The first [`LEN`] bytes of a device's BAR 0.
struct Bar0(*mut c_void);

impl Bar0 {
    fn map(place: &Path) -> Result<Self> {
        let bar = place.join("resource0");
        let file = File::options().read(true).write(true).open(&bar);
        let file = file.with_context(|| format!("Open {}", bar.display()))?;
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping at no particular address does not affect existing ones.
        let start = unsafe { mmap(null, LEN, ProtFlags::READ, MapFlags::SHARED, &file, 0) };
        Ok(Self(start.context("Map the registers")?))
    }

    fn read(&self, at: usize) -> u32 {
        assert!(at < LEN && at.is_multiple_of(4), "No register");
        // SAFETY: `at` is in the mapping, which is readable, and aligned. There are no references
        // to this memory, and according to the specifications reading the registers above has no
        // side effects.
        unsafe { self.0.cast::<u32>().wrapping_add(at / 4).read_volatile() }
    }

    /// Reads the low half first.
    fn read_64(&self, at: usize) -> u64 {
        u64::from(self.read(at)) | u64::from(self.read(at + 4)) << 32
    }
}

impl Drop for Bar0 {
    fn drop(&mut self) {
        // SAFETY: the mapping has this length, belongs to this value and is no longer in use.
        let unmapped = unsafe { munmap(self.0, LEN) };
        debug_assert!(unmapped.is_ok(), "A mapping of ours can be unmapped");
    }
}
