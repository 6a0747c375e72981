//! The ACPI description of the bus: a `PNP0A03` node with the addresses that it decodes.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Name, ResourceTemplate, Scope, ZERO,
};

use super::config_port::{ADDRESS, PORTS};
use crate::memory::layout::{PCI_WINDOW, PCI_WINDOW_LEN};

/// Declares the bus, below `\_SB`.
pub(crate) fn declare(body: &mut Vec<u8>) {
    let numbers = AddressSpace::new_bus_number(0u16, 0);
    // The bridge's own ports.
    let ports = IO::new(ADDRESS, ADDRESS, 1, PORTS);
    let last = PCI_WINDOW + PCI_WINDOW_LEN - 1;
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        PCI_WINDOW as u32,
        last as u32,
        None,
    );
    let resources = ResourceTemplate::new(vec![&numbers, &ports, &window]);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let uid = Name::new("_UID".into(), &ZERO);
    let crs = Name::new("_CRS".into(), &resources);
    let bus = Device::new("PCI0".into(), vec![&hid, &uid, &crs]);
    Scope::new("\\_SB_".into(), vec![&bus]).to_aml_bytes(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::HOLE_START;

    #[test]
    fn the_window_lies_in_the_hole_below_the_interrupt_controllers() {
        const { assert!(PCI_WINDOW >= HOLE_START) };
        const { assert!(PCI_WINDOW + PCI_WINDOW_LEN <= 0xfec0_0000) };
    }

    #[test]
    fn the_node_is_a_pci_bus_with_its_window() {
        let mut aml = Vec::new();
        declare(&mut aml);
        let at = aml.windows(4).position(|bytes| bytes == b"_HID").unwrap();
        assert_eq!(aml[at + 4..at + 9], [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
        let window = (PCI_WINDOW as u32).to_le_bytes();
        assert!(aml.windows(4).any(|bytes| bytes == window));
    }
}
