//! The ACPI tables: how a guest finds its CPUs and its I/O APIC, switches off and resets.
//!
//! ACPI Specification 6.5, chapters 5 and 20. Everything is little-endian.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, BootSpec};
use crate::devices::pci;
use crate::devices::pm::{self, SCI};
use crate::devices::reset;
use crate::devices::virtio;
use crate::devices::virtio::slot::Slot;
use crate::memory::layout::ACPI_TABLES;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

const RSDP_LEN: usize = 36;
const HEADER_LEN: usize = 36;
const FADT_LEN: usize = 276;
const FACS_LEN: usize = 64;
/// Tables start at multiples of this; the FACS has to.
const ALIGNMENT: usize = 64;

/// FADT, boot architecture: devices on an ISA bus; no VGA; no CMOS clock; no keyboard controller.
const BOOT_ARCH: u16 = (1 << 0) | (1 << 2) | (1 << 5);
/// FADT flags: WBINVD works; C1 works; a fixed power button, no sleep button; no RTC wake; the
/// reset register works; headless.
const FADT_FLAGS: u32 = (1 << 0) | (1 << 2) | (1 << 5) | (1 << 6) | (1 << 10) | (1 << 12);
/// Slower than the slowest C2 and C3 that are used: there are none.
const NO_C_STATE: u16 = 0xffff;

/// AML: `Name (_S5, Package () { 5, 5, 0, 0 })`, the sleep type that switches off.
const S5: [u8; 14] = [
    0x08,
    b'_',
    b'S',
    b'5',
    b'_',
    0x12,
    0x08,
    0x04,
    0x0a,
    pm::SLEEP_TYPE_OFF,
    0x0a,
    pm::SLEEP_TYPE_OFF,
    0x00,
    0x00,
];

/// Writes the tables for this many CPUs and these devices; the RSDP is at [`ACPI_TABLES`].
pub(super) fn write(memory: &GuestMemoryMmap, spec: &BootSpec<'_>) -> Result<(), BootError> {
    let tables = tables(ACPI_TABLES, spec.cpus, spec.devices, spec.has_pci);
    memory
        .write_slice(&tables, GuestAddress(ACPI_TABLES))
        .map_err(|source| BootError::Write {
            what: "ACPI tables",
            source,
        })
}

/// All tables as they lie from `base` on.
fn tables(base: u64, cpus: u8, devices: &[Slot], has_pci: bool) -> Vec<u8> {
    // The first is the RSDP, which is written last: it points to the others.
    let mut image = vec![0; RSDP_LEN];
    let facs = append(&mut image, base, &facs());
    let mut dsdt = [&S5[..], &virtio::aml::devices(devices)].concat();
    if has_pci {
        dsdt.extend(pci::aml::bus());
    }
    let dsdt = append(&mut image, base, &table(b"DSDT", 2, &dsdt));
    let fadt = append(&mut image, base, &table(b"FACP", 6, &fadt(facs, dsdt)));
    let madt = append(&mut image, base, &table(b"APIC", 5, &madt(cpus)));
    let pointers = [fadt.to_le_bytes(), madt.to_le_bytes()].concat();
    let xsdt = append(&mut image, base, &table(b"XSDT", 1, &pointers));
    image[..RSDP_LEN].copy_from_slice(&rsdp(xsdt));
    image
}

/// Appends a table, aligned, and returns its address.
fn append(image: &mut Vec<u8>, base: u64, table: &[u8]) -> u64 {
    image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
    let addr = base + image.len() as u64;
    image.extend(table);
    addr
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0FDBOX \x02".to_vec();
    bytes.extend([0; 4]);
    bytes.extend((RSDP_LEN as u32).to_le_bytes());
    bytes.extend(xsdt.to_le_bytes());
    bytes.extend([0; 4]);
    // One sum for readers of ACPI 1.0, one for all others.
    bytes[8] = checksum(&bytes[..20]);
    bytes[32] = checksum(&bytes);
    bytes
}

/// A table with its header.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend(((HEADER_LEN + body.len()) as u32).to_le_bytes());
    bytes.extend([revision, 0]);
    bytes.extend(b"FDBOX VMMEXMPL");
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(b"FDBX");
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(body);
    bytes[9] = checksum(&bytes);
    bytes
}

fn facs() -> Vec<u8> {
    let mut bytes = vec![0; FACS_LEN];
    bytes[..4].copy_from_slice(b"FACS");
    bytes[4] = FACS_LEN as u8;
    bytes[32] = 2;
    bytes
}

/// The body of the FADT. Offsets are those of the specification, the header included.
fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let mut bytes = vec![0; FADT_LEN];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(36, &(facs as u32).to_le_bytes());
    put(40, &(dsdt as u32).to_le_bytes());
    put(46, &[SCI]);
    put(56, &u32::from(pm::EVENTS).to_le_bytes());
    put(64, &u32::from(pm::CONTROL).to_le_bytes());
    put(88, &[pm::EVENTS_LEN, pm::CONTROL_LEN]);
    put(96, &NO_C_STATE.to_le_bytes());
    put(98, &NO_C_STATE.to_le_bytes());
    put(109, &BOOT_ARCH.to_le_bytes());
    put(112, &FADT_FLAGS.to_le_bytes());
    put(116, &io_register(reset::COMMAND, 1));
    put(128, &[reset::CMD_PULSE_RESET]);
    put(140, &dsdt.to_le_bytes());
    put(148, &io_register(pm::EVENTS, pm::EVENTS_LEN));
    put(172, &io_register(pm::CONTROL, pm::CONTROL_LEN));
    bytes.split_off(HEADER_LEN)
}

/// A generic address structure: so many bytes of I/O ports.
fn io_register(port: u16, len: u8) -> [u8; 12] {
    let [low, high] = port.to_le_bytes();
    // I/O space; width in bits; no offset; accesses of up to two bytes.
    [1, len * 8, 0, len.min(2), low, high, 0, 0, 0, 0, 0, 0]
}

/// The body of the MADT: the local APICs, the I/O APIC and how lines are wired.
fn madt(cpus: u8) -> Vec<u8> {
    let mut bytes = LOCAL_APIC.to_le_bytes().to_vec();
    // There are PICs too.
    bytes.extend(1u32.to_le_bytes());
    for id in 0..cpus {
        bytes.extend([0, 8, id, id, 1, 0, 0, 0]);
    }
    // The I/O APIC has the first ID that no CPU has.
    bytes.extend([1, 12, cpus, 0]);
    bytes.extend(IO_APIC.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    // KVM wires each ISA line to the pin of its number. The SCI is active high, level.
    bytes.extend([2, 10, 0, SCI, SCI, 0, 0, 0, 0x0d, 0]);
    // LINT1 of every local APIC is the NMI.
    bytes.extend([4, 6, 0xff, 0, 0, 1]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::HIGH_MEMORY;
    use crate::spec::MAX_CPUS;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn word(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// The table that a pointer at `at` points to, with its sum checked.
    fn follow(image: &[u8], at: usize) -> &[u8] {
        let start = word(image, at) - ACPI_TABLES as usize;
        let table = &image[start..start + word(image, start + 4)];
        assert_eq!(sum(table), 0, "{:?}", &table[..4]);
        table
    }

    #[test]
    fn every_table_is_found_from_the_rsdp() {
        let image = tables(ACPI_TABLES, 3, &[], false);
        assert_eq!((sum(&image[..20]), sum(&image[..RSDP_LEN])), (0, 0));
        let xsdt = follow(&image, 24);
        assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], HEADER_LEN + 16));
        let xsdt_at = word(&image, 24) - ACPI_TABLES as usize;
        let fadt = follow(&image, xsdt_at + HEADER_LEN);
        assert_eq!((&fadt[..4], fadt.len()), (&b"FACP"[..], FADT_LEN));
        assert_eq!(&follow(&image, xsdt_at + HEADER_LEN + 8)[..4], b"APIC");
        assert_eq!(word(fadt, 40), word(fadt, 140));
        let facs = word(fadt, 36) - ACPI_TABLES as usize;
        assert_eq!((&image[facs..facs + 4], facs % 64), (&b"FACS"[..], 0));
    }

    #[test]
    fn the_madt_has_an_entry_for_each_cpu() {
        let body = madt(200);
        let mut rest = &body[8..];
        let mut cpus = Vec::new();
        while let [kind, len, ..] = *rest {
            if kind == 0 {
                cpus.push(rest[3]);
            }
            rest = &rest[usize::from(len)..];
        }
        assert_eq!(cpus, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn the_largest_tables_fit_below_the_high_memory() {
        let devices: Vec<_> = Slot::all().collect();
        let len = tables(ACPI_TABLES, MAX_CPUS, &devices, true).len() as u64;
        assert!(ACPI_TABLES + len <= HIGH_MEMORY);
    }
}
