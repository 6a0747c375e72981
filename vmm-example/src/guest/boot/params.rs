//! The zero page: the boot loader's parameters for the kernel.

#![allow(unsafe_code, reason = "boot_params is declared a plain value")]

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Initramfs};
use crate::memory::layout::{
    ACPI_TABLES, CMDLINE, CMDLINE_MAX, E820Entry, E820Kind, RamRange, ZERO_PAGE, e820,
};

/// "Some other boot loader" in the kernel's list.
const LOADER_TYPE_OTHER: u8 = 0xff;

#[derive(Clone, Copy)]
#[repr(transparent)]
struct ZeroPage(boot_params);

// SAFETY: `boot_params` is packed, so it has no padding, and consists of integers and
// arrays of them.
unsafe impl ByteValued for ZeroPage {}

/// Writes the zero page.
pub(super) fn write(
    memory: &GuestMemoryMmap,
    ranges: &[RamRange],
    header: setup_header,
    initramfs: Option<Initramfs>,
) -> Result<(), BootError> {
    memory
        .write_obj(
            ZeroPage(build(ranges, header, initramfs)),
            GuestAddress(ZERO_PAGE),
        )
        .map_err(|source| BootError::Write {
            what: "zero page",
            source,
        })
}

fn build(ranges: &[RamRange], header: setup_header, initramfs: Option<Initramfs>) -> boot_params {
    let mut params = boot_params {
        hdr: header,
        ..Default::default()
    };
    params.acpi_rsdp_addr = ACPI_TABLES;
    params.hdr.type_of_loader = LOADER_TYPE_OTHER;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    params.hdr.cmdline_size = CMDLINE_MAX as u32;
    if let Some(initramfs) = initramfs {
        // Both are below 4 GiB: the kernel's header requires it and `place_initramfs` obeys.
        params.hdr.ramdisk_image = initramfs.addr as u32;
        params.hdr.ramdisk_size = initramfs.len as u32;
    }
    let map = e820(ranges);
    let mut table = params.e820_table;
    for (to, from) in table.iter_mut().zip(&map) {
        *to = entry(from);
    }
    params.e820_table = table;
    params.e820_entries = map.len() as u8;
    params
}

fn entry(entry: &E820Entry) -> boot_e820_entry {
    boot_e820_entry {
        addr: entry.addr,
        size: entry.len,
        r#type: match entry.kind {
            E820Kind::Ram => 1,
            E820Kind::Reserved => 2,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::ram_ranges;

    #[test]
    fn the_zero_page_holds_map_initramfs_and_command_line() {
        let initramfs = Initramfs {
            addr: 0x0f00_0000,
            len: 1234,
        };
        let params = build(
            &ram_ranges(4 << 30),
            setup_header::default(),
            Some(initramfs),
        );
        let (image, size) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
        assert_eq!((image, size), (0x0f00_0000, 1234));
        let cmdline = params.hdr.cmd_line_ptr;
        assert_eq!(u64::from(cmdline), CMDLINE);
        assert_eq!(params.e820_entries, 4);
        let last = params.e820_table[3];
        let (addr, len, kind) = (last.addr, last.size, last.r#type);
        assert_eq!((addr, len, kind), (4 << 30, 1 << 30, 1));
    }

    #[test]
    fn the_zero_page_is_one_page() {
        assert_eq!(size_of::<ZeroPage>(), 4096);
    }
}
