//! How ACPI describes the bus: a `PNP0A03` node with the addresses that go to it.
//!
//! ACPI Specification 6.5, section 6.4 (resources).

use super::config_port::{ADDRESS, PORTS};
use crate::devices::aml::{self, BYTE_PREFIX, END_TAG, buffer, dword, name};
use crate::memory::layout::{PCI_WINDOW, PCI_WINDOW_LEN};

/// `EisaId ("PNP0A03")`: a PCI bus.
const PNP0A03: [u8; 4] = [0x41, 0xd0, 0x0a, 0x03];
/// Minimum and maximum are fixed; the bridge passes the range on.
const FIXED: u8 = 0x0c;

/// AML that declares the bus, below `\_SB`.
pub(crate) fn bus() -> Vec<u8> {
    let body = [
        name(b"_HID", &dword(PNP0A03)),
        name(b"_UID", &[BYTE_PREFIX, 0]),
        name(b"_CRS", &buffer(&resources())),
    ]
    .concat();
    aml::system_bus(&aml::device(b"PCI0", &body))
}

fn resources() -> Vec<u8> {
    // Word Address Space: bus numbers, only 0.
    let mut bytes = vec![0x88, 13, 0, 2, FIXED, 0];
    for word in [0u16, 0, 0, 0, 1] {
        bytes.extend(word.to_le_bytes());
    }
    // I/O Port: the bridge's own, decoded in full.
    bytes.extend([0x47, 1]);
    bytes.extend(ADDRESS.to_le_bytes());
    bytes.extend(ADDRESS.to_le_bytes());
    bytes.extend([1, PORTS]);
    // DWord Address Space: memory, read and write, not cached.
    bytes.extend([0x87, 23, 0, 0, FIXED, 1]);
    let last = PCI_WINDOW + PCI_WINDOW_LEN - 1;
    for value in [0, PCI_WINDOW, last, 0, PCI_WINDOW_LEN] {
        bytes.extend((value as u32).to_le_bytes());
    }
    bytes.extend(END_TAG);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::HOLE_START;

    #[test]
    fn every_resource_has_the_length_it_says() {
        let bytes = resources();
        let (mut at, mut tags) = (0, Vec::new());
        while at < bytes.len() {
            tags.push(bytes[at]);
            at += match bytes[at] & 0x80 {
                0 => 1 + usize::from(bytes[at] & 7),
                _ => 3 + usize::from(u16::from_le_bytes([bytes[at + 1], bytes[at + 2]])),
            };
        }
        assert_eq!((at, tags), (bytes.len(), vec![0x88, 0x47, 0x87, 0x79]));
    }

    #[test]
    fn the_window_lies_in_the_hole_below_the_interrupt_controllers() {
        const { assert!(PCI_WINDOW >= HOLE_START) };
        const { assert!(PCI_WINDOW + PCI_WINDOW_LEN <= 0xfec0_0000) };
    }

    #[test]
    fn the_node_is_a_pci_bus() {
        let aml = bus();
        let at = aml.windows(4).position(|bytes| bytes == b"_HID").unwrap();
        assert_eq!(aml[at + 4..at + 9], [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
    }
}
