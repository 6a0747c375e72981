//! The registers of a device that somebody else drives, read beside him: through sysfs, without opening the
//! device.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use fdbox_lab::device::{Noted, Registers};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::pci;
use crate::host;

/// What is mapped of BAR 0: up to the end of the transmit ring's registers.
const LEN: usize = 0x4000;

const RCTL: usize = 0x100;
const RDBAL: usize = 0x2800;
const RDBAH: usize = 0x2804;
const RDLEN: usize = 0x2808;
const TDBAL: usize = 0x3800;
const _: () = assert!(TDBAL < LEN, "It is the last of them");

/// Notes how the host's first device is. It must be in D0, its memory switched on.
pub(crate) fn note() -> Result<Noted> {
    let place = pci::nic()?;
    let log = host::whole_kernel_log()?;
    let resets = log.iter().filter(|line| line.ends_with(": resetting"));
    Ok(Noted {
        registers: read(&place.join("resource0"))?,
        bus_master: pci::is_master()?,
        resets_logged: resets.count(),
    })
}

fn read(bar: &Path) -> Result<Registers> {
    let file = File::options().read(true).write(true).open(bar);
    let file = file.with_context(|| format!("Open {}", bar.display()))?;
    let null = std::ptr::null_mut();
    // SAFETY: a new mapping at no particular address takes nothing from anyone.
    let start = unsafe { mmap(null, LEN, ProtFlags::READ, MapFlags::SHARED, &file, 0) };
    let start = start.context("Map the registers")?;
    let register = |at: usize| {
        // SAFETY: `at` is one of the above, so in the mapping, which is readable, and aligned. It is no
        // memory that anybody has a reference to, and reading these registers changes nothing (datasheet, chapter 10).
        unsafe { start.cast::<u32>().wrapping_add(at / 4).read_volatile() }
    };
    let registers = Registers {
        rctl: register(RCTL),
        rdbal: register(RDBAL),
        rdbah: register(RDBAH),
        rdlen: register(RDLEN),
        tdbal: register(TDBAL),
    };
    // SAFETY: the mapping is ours alone and is not used any more.
    unsafe { munmap(start, LEN) }?;
    Ok(registers)
}
