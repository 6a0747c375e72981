//! The registers of a PCI device in its first BAR, read through sysfs without opening the device.

use std::ffi::c_void;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The mapped part of BAR 0: both kinds of device have at least this much, and it contains all
/// registers read here.
const LEN: usize = 0x4000;

/// See the 82574 datasheet, chapter 10.
pub mod card {
    pub const RCTL: usize = 0x100;
    pub const RDBAL: usize = 0x2800;
    pub const RDBAH: usize = 0x2804;
    pub const RDLEN: usize = 0x2808;
    pub const RDT: usize = 0x2818;
    pub const TDBAL: usize = 0x3800;
}

/// The first 16 KiB of a device's BAR 0.
#[derive(Debug)]
pub struct Bar0(*mut c_void);

impl Bar0 {
    /// Maps them, of the device with this folder in sysfs. It must be in D0 with its memory enabled.
    pub fn map(place: &Path) -> Result<Self> {
        let bar = place.join("resource0");
        let file = File::options().read(true).write(true).open(&bar);
        let file = file.with_context(|| format!("Open {}", bar.display()))?;
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping at no particular address does not affect existing ones.
        let start = unsafe { mmap(null, LEN, ProtFlags::READ, MapFlags::SHARED, &file, 0) };
        Ok(Self(start.context("Map the registers")?))
    }

    /// Reads a register.
    ///
    /// # Panics
    /// If there is none.
    pub fn read(&self, at: usize) -> u32 {
        assert!(at < LEN && at.is_multiple_of(4), "No register");
        // SAFETY: `at` is in the mapping, which is readable, and aligned. There are no references
        // to this memory, and according to the specifications reading the registers above has no
        // side effects.
        unsafe { self.0.cast::<u32>().wrapping_add(at / 4).read_volatile() }
    }

    /// Reads two, the low half first.
    ///
    /// # Panics
    /// If there is none.
    pub fn read_64(&self, at: usize) -> u64 {
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
