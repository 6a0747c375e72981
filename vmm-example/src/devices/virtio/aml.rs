//! How ACPI describes the devices: one `LNRO0005` node each, in AML.
//!
//! ACPI Specification 6.5, section 6.4 (resources).

use super::slot::{STRIDE, Slot};
use crate::devices::aml::{self, BYTE_PREFIX, END_TAG, buffer, name};

const STRING_PREFIX: u8 = 0x0d;
const ONE_OP: u8 = 0x01;

/// AML that declares these devices, below `\_SB`.
pub(crate) fn devices(slots: &[Slot]) -> Vec<u8> {
    if slots.is_empty() {
        return Vec::new();
    }
    let body: Vec<u8> = slots.iter().flat_map(|slot| device(*slot)).collect();
    aml::system_bus(&body)
}

/// `Device (VRnn) { _HID, _UID, _CCA, _CRS }`
fn device(slot: Slot) -> Vec<u8> {
    let mut hid = vec![STRING_PREFIX];
    hid.extend(b"LNRO0005\0");
    let mut body = name(b"_HID", &hid);
    body.extend(name(b"_UID", &[BYTE_PREFIX, slot.index()]));
    // DMA is coherent: without this Linux refuses it on some machines.
    body.extend(name(b"_CCA", &[ONE_OP]));
    body.extend(name(b"_CRS", &buffer(&resources(slot))));
    let [tens, units] = [slot.index() / 10, slot.index() % 10].map(|digit| b'0' + digit);
    aml::device(&[b'V', b'R', tens, units], &body)
}

/// A resource template: the registers and the interrupt line.
fn resources(slot: Slot) -> Vec<u8> {
    // Memory32Fixed, read and write.
    let mut bytes = vec![0x86, 9, 0, 1];
    bytes.extend((slot.base() as u32).to_le_bytes());
    bytes.extend((STRIDE as u32).to_le_bytes());
    // Extended Interrupt: consumer, edge, active high, exclusive; one line.
    bytes.extend([0x89, 6, 0, 0b0011, 1]);
    bytes.extend(slot.gsi().to_le_bytes());
    bytes.extend(END_TAG);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::aml::unpack;

    #[test]
    fn no_devices_are_no_aml() {
        assert!(devices(&[]).is_empty());
    }

    #[test]
    fn every_device_is_in_the_scope() {
        let slots: Vec<_> = Slot::all().collect();
        let aml = devices(&slots);
        let (total, own) = unpack(&aml[1..]);
        assert_eq!(total, aml.len() - 1);
        let mut rest = &aml[1 + own + 5..];
        let mut names = Vec::new();
        while !rest.is_empty() {
            assert_eq!(rest[..2], [0x5b, 0x82]);
            let (total, own) = unpack(&rest[2..]);
            names.push(String::from_utf8(rest[2 + own..6 + own].to_vec()).unwrap());
            rest = &rest[2 + total..];
        }
        assert_eq!(names.len(), slots.len());
        assert_eq!(names[7], "VR07");
    }

    #[test]
    fn resources_name_registers_and_line() {
        let slot = Slot::new(1).unwrap();
        let bytes = resources(slot);
        assert_eq!(bytes[4..8], 0xd000_1000u32.to_le_bytes());
        assert_eq!(bytes[17..21], 17u32.to_le_bytes());
    }
}
