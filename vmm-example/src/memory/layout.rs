//! The guest's physical address space.
//!
//! RAM starts at 0 and leaves a hole below 4 GiB, which contains the local APICs, the I/O APIC and
//! KVM's own pages; what does not fit below the hole continues at 4 GiB. One file backs all of it,
//! without a gap.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The start of the hole below 4 GiB.
pub(crate) const HOLE_START: u64 = 3 << 30;
/// Where RAM continues after the hole.
pub(crate) const HIGH_RAM_START: u64 = 4 << 30;

/// The registers of the virtio devices, in the hole.
pub(crate) const VIRTIO_MMIO: u64 = 0xd000_0000;
/// The window for memory of PCI devices, in the hole.
pub(crate) const PCI_WINDOW: u64 = 0xe000_0000;
/// Its size: up to some distance before the interrupt controllers.
pub(crate) const PCI_WINDOW_LEN: u64 = 0x1e00_0000;

/// The zero page: `struct boot_params`.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// The stack pointer at entry; the kernel sets up its own at once.
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
/// Page tables at entry: one page each for the top three levels.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The descriptor table at entry.
pub(crate) const GDT: u64 = 0x500;
/// The kernel command line.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Bytes for the command line, its NUL included.
pub(crate) const CMDLINE_MAX: usize = 0x1000;
/// End of the conventional memory that the kernel may use.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables, in the area where kernels search for them.
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;
/// Start of the memory above the legacy area.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// The end of the physical address space of every x86-64 CPU.
const ADDRESSES_END: u64 = 1 << 52;
const PAGE: u64 = 0x1000;

/// KVM needs three pages for real mode on some CPUs, and one for its identity map.
pub(crate) const KVM_TSS: u64 = 0xfffb_d000;
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// A range of guest RAM and its location in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RamRange {
    pub(crate) gpa: u64,
    pub(crate) len: u64,
    pub(crate) file_offset: u64,
}

/// Lays out `bytes` of RAM around the hole.
pub(crate) fn ram_ranges(bytes: u64) -> Vec<RamRange> {
    let low = bytes.min(HOLE_START);
    let mut ranges = vec![RamRange {
        gpa: 0,
        len: low,
        file_offset: 0,
    }];
    if bytes > low {
        ranges.push(RamRange {
            gpa: HIGH_RAM_START,
            len: bytes - low,
            file_offset: low,
        });
    }
    ranges
}

/// An impossible layout of RAM.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "The saved guest has RAM at {gpa:#x}, {len:#x} bytes, from byte {file_offset:#x} of its file: {problem}"
)]
pub(crate) struct BadRange {
    gpa: u64,
    len: u64,
    file_offset: u64,
    problem: &'static str,
}

/// Checks the RAM ranges of a saved state, and returns their total size.
pub(crate) fn check(ranges: &[RamRange]) -> Result<u64, BadRange> {
    let (mut bytes, mut free) = (0u64, 0u64);
    for range in ranges {
        let bad = |problem| BadRange {
            gpa: range.gpa,
            len: range.len,
            file_offset: range.file_offset,
            problem,
        };
        let end = range.gpa.checked_add(range.len);
        let end = end.filter(|end| *end <= ADDRESSES_END);
        let end = end.ok_or_else(|| bad("that is more than a CPU can address"))?;
        if range.len == 0 || (range.gpa | range.len) % PAGE != 0 {
            return Err(bad("it is not made of whole pages"));
        }
        if range.gpa < free {
            return Err(bad("it overlaps the one before"));
        }
        if range.gpa < HIGH_RAM_START && end > HOLE_START {
            return Err(bad("it is where devices are"));
        }
        if range.file_offset != bytes {
            return Err(bad("it does not follow the one before in the file"));
        }
        // At most the sum of what CPUs can address.
        (bytes, free) = (bytes + range.len, end);
    }
    Ok(bytes)
}

/// The type of a memory map entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum E820Kind {
    Ram,
    Reserved,
}

/// An entry of the guest kernel's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct E820Entry {
    pub(crate) addr: u64,
    pub(crate) len: u64,
    pub(crate) kind: E820Kind,
}

/// The memory map of a guest with this RAM.
pub(crate) fn e820(ranges: &[RamRange]) -> Vec<E820Entry> {
    let mut map = vec![
        E820Entry {
            addr: 0,
            len: LOW_RAM_END,
            kind: E820Kind::Ram,
        },
        E820Entry {
            addr: LOW_RAM_END,
            len: HIGH_MEMORY - LOW_RAM_END,
            kind: E820Kind::Reserved,
        },
    ];
    map.extend(ranges.iter().map(|range| {
        let addr = range.gpa.max(HIGH_MEMORY);
        E820Entry {
            addr,
            len: (range.gpa + range.len).saturating_sub(addr),
            kind: E820Kind::Ram,
        }
    }));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ram_is_one_range() {
        assert_eq!(
            ram_ranges(256 << 20),
            [RamRange {
                gpa: 0,
                len: 256 << 20,
                file_offset: 0
            }]
        );
        assert_eq!(ram_ranges(HOLE_START).len(), 1);
    }

    #[test]
    fn large_ram_goes_around_the_hole_and_leaves_none_in_the_file() {
        let ranges = ram_ranges(8 << 30);
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0].gpa + ranges[0].len, HOLE_START);
        assert_eq!(ranges[1].gpa, HIGH_RAM_START);
        assert_eq!(ranges[1].file_offset, ranges[0].len);
        assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), 8 << 30);
    }

    #[test]
    fn what_a_state_says_of_ram_is_checked() {
        for bytes in [64 << 20, HOLE_START, 8 << 30] {
            assert_eq!(check(&ram_ranges(bytes)), Ok(bytes));
        }
        let range = |gpa, len, file_offset| RamRange {
            gpa,
            len,
            file_offset,
        };
        let good = range(0, 1 << 20, 0);
        let bad: [(&[RamRange], &str); 9] = [
            // Lengths that wrap around to 0.
            (
                &[range(0, 1 << 63, 0), range(4 << 30, 1 << 63, 1 << 63)],
                "address",
            ),
            (&[range(u64::MAX - 0xfff, 0x2000, 0)], "address"),
            // Beyond the end of the file, and overlapping another range.
            (&[range(0, 1 << 20, 1 << 20)], "in the file"),
            (&[good, range(4 << 30, 1 << 20, 0)], "in the file"),
            (&[good, range(0, 1 << 20, 1 << 20)], "overlaps"),
            (&[range(0, 0, 0)], "whole pages"),
            (&[range(0, 4097, 0)], "whole pages"),
            (&[range(0, 4 << 30, 0)], "devices"),
            (&[good, range(VIRTIO_MMIO, 1 << 20, 1 << 20)], "devices"),
        ];
        for (ranges, problem) in bad {
            let error = check(ranges).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn the_map_is_sorted_without_overlap_and_hides_the_acpi_tables() {
        let map = e820(&ram_ranges(8 << 30));
        for pair in map.windows(2) {
            assert!(pair[0].addr + pair[0].len <= pair[1].addr, "{pair:x?}");
        }
        let holder = map
            .iter()
            .find(|e| (e.addr..e.addr + e.len).contains(&ACPI_TABLES))
            .unwrap();
        assert_eq!(holder.kind, E820Kind::Reserved);
        let ram: u64 = map
            .iter()
            .filter(|e| e.kind == E820Kind::Ram)
            .map(|e| e.len)
            .sum();
        assert_eq!(ram, (8 << 30) - (HIGH_MEMORY - LOW_RAM_END));
    }

    #[test]
    fn boot_structures_lie_in_conventional_memory_and_apart() {
        let mut areas = [
            (GDT, 0x100),
            (ZERO_PAGE, 0x1000),
            (BOOT_STACK - 0x10, 0x20),
            (PAGE_TABLES, 0x3000),
            (CMDLINE, CMDLINE_MAX as u64),
        ];
        areas.sort();
        for pair in areas.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        assert!(areas.iter().all(|(start, len)| start + len <= LOW_RAM_END));
    }
}
