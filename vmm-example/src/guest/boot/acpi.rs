//! The ACPI tables: how a guest finds its CPUs and its I/O APIC, powers off and resets.
//!
//! ACPI Specification 6.5, chapters 5 and 20. Everything is little-endian.

use acpi_tables::Aml;
use acpi_tables::aml::{Name, Package};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, BootSpec};
use crate::devices::pci;
use crate::devices::pm::{self, SCI};
use crate::devices::reset;
use crate::devices::virtio;
use crate::devices::virtio::slot::Slot;
use crate::memory::layout::ACPI_TABLES;

/// The OEM ID and the OEM table ID.
const OEM: [u8; 6] = *b"FDBOX ";
const OEM_TABLE: [u8; 8] = *b"VMMEXMPL";
const OEM_REVISION: u32 = 1;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// Tables are aligned to this; the FACS must be.
const ALIGNMENT: usize = 64;

/// The version of ACPI 4.0 and later.
const FACS_VERSION: u8 = 2;
/// FADT, boot architecture: devices on an ISA bus; no VGA; no CMOS clock; no keyboard controller.
const BOOT_ARCH: u16 = (1 << 0) | (1 << 2) | (1 << 5);
/// A fixed power button is indicated by the absence of a flag.
const FADT_FLAGS: [Flags; 6] = [
    Flags::Wbinvd,
    Flags::ProcC1,
    Flags::SlpButton,
    Flags::FixRtc,
    Flags::ResetRegSup,
    Flags::Headless,
];
/// Larger than the maximum latency of a supported C2 and C3: there are none.
const NO_C_STATE: u16 = 0xffff;

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

/// All tables as laid out from `base` on.
fn tables(base: u64, cpus: u8, devices: &[Slot], has_pci: bool) -> Vec<u8> {
    // The RSDP comes first, but is written last, because it points to the others.
    let mut image = vec![0; Rsdp::len()];
    let mut facs = FACS::new();
    facs.version = FACS_VERSION;
    let facs = append(&mut image, base, &facs);
    let dsdt = append(&mut image, base, &dsdt(devices, has_pci));
    let fadt = append(&mut image, base, &fadt(facs, dsdt));
    let madt = append(&mut image, base, &table(*b"APIC", 5, &madt(cpus)));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = append(&mut image, base, &xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    image[..Rsdp::len()].copy_from_slice(&rsdp);
    image
}

/// Appends a table, aligned, and returns its address.
fn append(image: &mut Vec<u8>, base: u64, table: &dyn Aml) -> u64 {
    image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
    let addr = base + image.len() as u64;
    table.to_aml_bytes(image);
    addr
}

/// A table with its header.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, 36, revision, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(body);
    table
}

fn dsdt(devices: &[Slot], has_pci: bool) -> Sdt {
    let off = pm::SLEEP_TYPE_OFF;
    let mut body = Vec::new();
    // The sleep type for power off.
    let types = Package::new(vec![&off, &off, &0u8, &0u8]);
    Name::new("_S5_".into(), &types).to_aml_bytes(&mut body);
    virtio::aml::declare(devices, &mut body);
    if has_pci {
        pci::aml::declare(&mut body);
    }
    table(*b"DSDT", 2, &body)
}

fn fadt(facs: u64, dsdt: u64) -> FADT {
    let flags = FADT_FLAGS.into_iter();
    let new = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION);
    let mut fadt = flags.fold(new, FADTBuilder::flag);
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(SCI).into();
    fadt.pm1a_evt_blk = u32::from(pm::EVENTS).into();
    fadt.pm1a_cnt_blk = u32::from(pm::CONTROL).into();
    fadt.pm1_evt_len = pm::EVENTS_LEN;
    fadt.pm1_cnt_len = pm::CONTROL_LEN;
    fadt.p_lvl2_lat = NO_C_STATE.into();
    fadt.p_lvl3_lat = NO_C_STATE.into();
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = io_register(reset::COMMAND, 1);
    fadt.reset_value = reset::CMD_PULSE_RESET;
    fadt.x_pm1a_evt_blk = io_register(pm::EVENTS, pm::EVENTS_LEN);
    fadt.x_pm1a_cnt_blk = io_register(pm::CONTROL, pm::CONTROL_LEN);
    fadt.finalize()
}

/// A number of I/O ports.
fn io_register(port: u16, len: u8) -> GAS {
    let access = match len {
        1 => AccessSize::ByteAccess,
        _ => AccessSize::WordAccess,
    };
    GAS::new(AddressSpace::SystemIo, len * 8, 0, access, port.into())
}

/// The body of the MADT: the local APICs, the I/O APIC and how lines are wired. acpi_tables has
/// neither its flags nor the entries at the end.
fn madt(cpus: u8) -> Vec<u8> {
    let mut bytes = LOCAL_APIC.to_le_bytes().to_vec();
    // There are PICs as well.
    bytes.extend(1u32.to_le_bytes());
    for id in 0..cpus {
        bytes.extend([0, 8, id, id, 1, 0, 0, 0]);
    }
    // The I/O APIC has the first ID that no CPU uses.
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

    const HEADER_LEN: usize = 36;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn word(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// The table at the pointer at `at`, with its checksum verified.
    fn follow(image: &[u8], at: usize) -> &[u8] {
        let start = word(image, at) - ACPI_TABLES as usize;
        let table = &image[start..start + word(image, start + 4)];
        assert_eq!(sum(table), 0, "{:?}", &table[..4]);
        table
    }

    #[test]
    fn every_table_is_found_from_the_rsdp() {
        let image = tables(ACPI_TABLES, 3, &[], false);
        assert_eq!((sum(&image[..20]), sum(&image[..Rsdp::len()])), (0, 0));
        let xsdt = follow(&image, 24);
        assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], HEADER_LEN + 16));
        let xsdt_at = word(&image, 24) - ACPI_TABLES as usize;
        let fadt = follow(&image, xsdt_at + HEADER_LEN);
        assert_eq!((&fadt[..4], fadt.len()), (&b"FACP"[..], FADT::len()));
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
