//! The ACPI description of the devices: an `LNRO0005` node each, in AML.

use acpi_tables::Aml;
use acpi_tables::aml::{Device, Interrupt, Memory32Fixed, Name, ONE, ResourceTemplate, Scope};

use super::slot::{STRIDE, Slot};

/// Declares these devices, below `\_SB`.
pub(crate) fn declare(slots: &[Slot], body: &mut Vec<u8>) {
    if slots.is_empty() {
        return;
    }
    let mut devices = Vec::new();
    for slot in slots {
        device(*slot, &mut devices);
    }
    body.extend(Scope::raw("\\_SB_".into(), devices));
}

/// `Device (VRnn) { _HID, _UID, _CCA, _CRS }`
fn device(slot: Slot, body: &mut Vec<u8>) {
    let registers = Memory32Fixed::new(true, slot.base() as u32, STRIDE as u32);
    // A consumer, edge, active high, not shared.
    let line = Interrupt::new(true, true, false, false, slot.gsi());
    let resources = ResourceTemplate::new(vec![&registers, &line]);
    let name = format!("VR{:02}", slot.index());
    let hid = Name::new("_HID".into(), &"LNRO0005");
    let uid = Name::new("_UID".into(), &slot.index());
    // DMA is coherent: without this Linux refuses it on some machines.
    let cca = Name::new("_CCA".into(), &ONE);
    let crs = Name::new("_CRS".into(), &resources);
    Device::new((&*name).into(), vec![&hid, &uid, &cca, &crs]).to_aml_bytes(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aml(slots: &[Slot]) -> Vec<u8> {
        let mut body = Vec::new();
        declare(slots, &mut body);
        body
    }

    fn count(bytes: &[u8], part: &[u8]) -> usize {
        bytes
            .windows(part.len())
            .filter(|bytes| *bytes == part)
            .count()
    }

    #[test]
    fn no_devices_are_no_aml() {
        assert!(aml(&[]).is_empty());
    }

    #[test]
    fn every_device_is_declared_with_its_registers_and_line() {
        let slots: Vec<_> = Slot::all().collect();
        let aml = aml(&slots);
        assert_eq!(count(&aml, b"LNRO0005\0"), slots.len());
        assert_eq!(count(&aml, b"VR07"), 1);
        for slot in slots {
            // Memory32Fixed, read and write; Extended Interrupt with one line.
            let mut registers = vec![0x86, 9, 0, 1];
            registers.extend((slot.base() as u32).to_le_bytes());
            registers.extend((STRIDE as u32).to_le_bytes());
            let mut line = vec![0x89, 6, 0, 0b0011, 1];
            line.extend(slot.gsi().to_le_bytes());
            assert_eq!((count(&aml, &registers), count(&aml, &line)), (1, 1));
        }
    }
}
