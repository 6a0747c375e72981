//! How ACPI describes the devices: one `LNRO0005` node each, in AML.
//!
//! ACPI Specification 6.5, chapter 20 (encoding) and 6.4 (resources).

use super::slot::{STRIDE, Slot};

const NAME_OP: u8 = 0x08;
const BYTE_PREFIX: u8 = 0x0a;
const DWORD_PREFIX: u8 = 0x0c;
const STRING_PREFIX: u8 = 0x0d;
const SCOPE_OP: u8 = 0x10;
const BUFFER_OP: u8 = 0x11;
const ONE_OP: u8 = 0x01;
const DEVICE_OP: [u8; 2] = [0x5b, 0x82];

/// AML that declares these devices, below `\_SB`.
pub(crate) fn devices(slots: &[Slot]) -> Vec<u8> {
    if slots.is_empty() {
        return Vec::new();
    }
    let mut body = b"\\_SB_".to_vec();
    slots.iter().for_each(|slot| body.extend(device(*slot)));
    package(&[SCOPE_OP], &body)
}

/// `Device (VRnn) { _HID, _UID, _CCA, _CRS }`
fn device(slot: Slot) -> Vec<u8> {
    let mut body = format!("VR{:02}", slot.index()).into_bytes();
    let mut hid = vec![STRING_PREFIX];
    hid.extend(b"LNRO0005\0");
    body.extend(name(b"_HID", &hid));
    body.extend(name(b"_UID", &[BYTE_PREFIX, slot.index()]));
    // DMA is coherent: without this Linux refuses it on some machines.
    body.extend(name(b"_CCA", &[ONE_OP]));
    body.extend(name(b"_CRS", &buffer(&resources(slot))));
    package(&DEVICE_OP, &body)
}

fn name(name: &[u8; 4], value: &[u8]) -> Vec<u8> {
    [&[NAME_OP][..], name, value].concat()
}

fn buffer(bytes: &[u8]) -> Vec<u8> {
    let mut body = vec![DWORD_PREFIX];
    body.extend((bytes.len() as u32).to_le_bytes());
    body.extend(bytes);
    package(&[BUFFER_OP], &body)
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
    // End tag, without a checksum.
    bytes.extend([0x79, 0]);
    bytes
}

/// An operator, the length of its package (the length's own bytes included), and the body.
fn package(op: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = op.to_vec();
    let len = body.len();
    if len + 1 < 1 << 6 {
        bytes.push((len + 1) as u8);
    } else if len + 2 < 1 << 12 {
        let total = len + 2;
        bytes.extend([0x40 | (total & 0xf) as u8, (total >> 4) as u8]);
    } else {
        let total = len + 3;
        bytes.extend([
            0x80 | (total & 0xf) as u8,
            (total >> 4) as u8,
            (total >> 12) as u8,
        ]);
    }
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a package's length; the rest of `bytes` is its body.
    fn unpack(bytes: &[u8]) -> (usize, usize) {
        match bytes[0] >> 6 {
            0 => (bytes[0].into(), 1),
            1 => (usize::from(bytes[0] & 0xf) | usize::from(bytes[1]) << 4, 2),
            _ => panic!("longer than any here"),
        }
    }

    #[test]
    fn no_devices_are_no_aml() {
        assert!(devices(&[]).is_empty());
    }

    #[test]
    fn package_lengths_count_themselves() {
        for len in [0, 10, 61, 62, 63, 64, 300, 4000] {
            let bytes = package(&[SCOPE_OP], &vec![0; len]);
            let (total, own) = unpack(&bytes[1..]);
            assert_eq!((total, total - own), (bytes.len() - 1, len));
        }
        assert_eq!(package(&[SCOPE_OP], &vec![0; 5000]).len(), 5000 + 4);
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
            assert_eq!(rest[..2], DEVICE_OP);
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
