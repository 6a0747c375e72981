//! The MP tables: how a guest without ACPI finds its CPUs and its I/O APIC.
//!
//! Intel MultiProcessor Specification 1.4, chapter 4. Every structure is little-endian.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::BootError;
use crate::memory::layout::MP_TABLE;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// The version of KVM's local APICs and of its I/O APIC.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const SPEC_1_4: u8 = 4;
const FLOATING_POINTER_LEN: u64 = 16;
const HEADER_LEN: usize = 44;
/// Lines that devices of the ISA bus have.
const ISA_LINES: u8 = 16;
const BUS: u8 = 0;

const ENTRY_CPU: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IO_APIC: u8 = 2;
const ENTRY_IO_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;

const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
const INT_VECTORED: u8 = 0;
const INT_NMI: u8 = 1;
const INT_EXTINT: u8 = 3;
const ALL_LOCAL_APICS: u8 = 0xff;

/// Writes the tables for this many CPUs.
pub(super) fn write(memory: &GuestMemoryMmap, cpus: u8) -> Result<(), BootError> {
    let mut bytes = floating_pointer(MP_TABLE as u32 + FLOATING_POINTER_LEN as u32);
    bytes.extend(table(cpus));
    memory
        .write_slice(&bytes, GuestAddress(MP_TABLE))
        .map_err(|source| BootError::Write {
            what: "MP tables",
            source,
        })
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

fn floating_pointer(table: u32) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend(table.to_le_bytes());
    // Length in paragraphs, version, checksum, and five bytes of features: none.
    bytes.extend([1, SPEC_1_4, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes);
    bytes
}

fn table(cpus: u8) -> Vec<u8> {
    let entries = entries(cpus);
    let len = HEADER_LEN + entries.iter().map(Vec::len).sum::<usize>();
    let mut bytes = b"PCMP".to_vec();
    bytes.extend((len as u16).to_le_bytes());
    bytes.extend([SPEC_1_4, 0]);
    bytes.extend(b"FDBOX   ");
    bytes.extend(b"VMM-EXAMPLE ");
    bytes.extend([0; 6]);
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend(LOCAL_APIC.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(entries.concat());
    bytes[7] = checksum(&bytes);
    bytes
}

fn entries(cpus: u8) -> Vec<Vec<u8>> {
    // The I/O APIC has the first ID that no CPU has.
    let io_apic_id = cpus;
    let mut entries: Vec<Vec<u8>> = (0..cpus).map(cpu).collect();
    entries.push([&[ENTRY_BUS, BUS][..], b"ISA   "].concat());
    let mut io_apic = vec![ENTRY_IO_APIC, io_apic_id, IO_APIC_VERSION, 1];
    io_apic.extend(IO_APIC.to_le_bytes());
    entries.push(io_apic);
    // KVM wires each ISA line to the I/O APIC's pin of the same number.
    entries.extend((0..ISA_LINES).map(|line| {
        vec![
            ENTRY_IO_INTERRUPT,
            INT_VECTORED,
            0,
            0,
            BUS,
            line,
            io_apic_id,
            line,
        ]
    }));
    entries.push(vec![ENTRY_LOCAL_INTERRUPT, INT_EXTINT, 0, 0, BUS, 0, 0, 0]);
    entries.push(vec![
        ENTRY_LOCAL_INTERRUPT,
        INT_NMI,
        0,
        0,
        BUS,
        0,
        ALL_LOCAL_APICS,
        1,
    ]);
    entries
}

fn cpu(id: u8) -> Vec<u8> {
    let flags = if id == 0 {
        CPU_ENABLED | CPU_BOOT
    } else {
        CPU_ENABLED
    };
    let mut entry = vec![ENTRY_CPU, id, LOCAL_APIC_VERSION, flags];
    // Signature: family 6. Features: FPU and APIC. Kernels go by CPUID.
    entry.extend(0x600u32.to_le_bytes());
    entry.extend(0x201u32.to_le_bytes());
    entry.extend([0; 8]);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::HIGH_MEMORY;
    use crate::spec::MAX_CPUS;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn both_structures_sum_to_zero_and_have_the_length_they_say() {
        let pointer = floating_pointer(0xf0010);
        assert_eq!((pointer.len(), sum(&pointer)), (16, 0));
        let table = table(3);
        assert_eq!(sum(&table), 0);
        assert_eq!(
            usize::from(u16::from_le_bytes([table[4], table[5]])),
            table.len()
        );
        let count = u16::from_le_bytes([table[34], table[35]]);
        assert_eq!(usize::from(count), entries(3).len());
    }

    #[test]
    fn entries_have_the_sizes_of_the_specification() {
        for entry in entries(MAX_CPUS) {
            assert_eq!(entry.len(), if entry[0] == ENTRY_CPU { 20 } else { 8 });
        }
    }

    #[test]
    fn the_largest_table_fits_below_the_high_memory() {
        let end = MP_TABLE + FLOATING_POINTER_LEN + table(MAX_CPUS).len() as u64;
        assert!(end <= HIGH_MEMORY);
    }

    #[test]
    fn one_cpu_boots_the_system() {
        let boot = entries(4)
            .iter()
            .filter(|e| e[0] == ENTRY_CPU && e[3] & CPU_BOOT != 0)
            .count();
        assert_eq!(boot, 1);
    }
}
