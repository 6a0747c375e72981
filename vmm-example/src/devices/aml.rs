//! ACPI Machine Language: the few constructs that the tables here need.
//!
//! ACPI Specification 6.5, chapter 20.

const NAME_OP: u8 = 0x08;
const DWORD_PREFIX: u8 = 0x0c;
const BUFFER_OP: u8 = 0x11;
const SCOPE_OP: u8 = 0x10;
const DEVICE_OP: [u8; 2] = [0x5b, 0x82];

/// The prefix of a one-byte number.
pub(crate) const BYTE_PREFIX: u8 = 0x0a;
/// What a resource template ends with: a tag without a checksum.
pub(crate) const END_TAG: [u8; 2] = [0x79, 0];

/// `Scope (\_SB) { body }`
pub(crate) fn system_bus(body: &[u8]) -> Vec<u8> {
    package(&[SCOPE_OP], &[b"\\_SB_", body].concat())
}

/// `Device (name) { body }`
pub(crate) fn device(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    package(&DEVICE_OP, &[name, body].concat())
}

/// `Name (name, value)`
pub(crate) fn name(name: &[u8; 4], value: &[u8]) -> Vec<u8> {
    [&[NAME_OP][..], name, value].concat()
}

/// A four-byte number.
pub(crate) fn dword(value: [u8; 4]) -> Vec<u8> {
    [&[DWORD_PREFIX][..], &value].concat()
}

/// `Buffer () { bytes }`
pub(crate) fn buffer(bytes: &[u8]) -> Vec<u8> {
    let mut body = dword((bytes.len() as u32).to_le_bytes());
    body.extend(bytes);
    package(&[BUFFER_OP], &body)
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

/// Reads a package's length, for tests: the rest of `bytes` is its body.
#[cfg(test)]
pub(crate) fn unpack(bytes: &[u8]) -> (usize, usize) {
    match bytes[0] >> 6 {
        0 => (bytes[0].into(), 1),
        1 => (usize::from(bytes[0] & 0xf) | usize::from(bytes[1]) << 4, 2),
        _ => panic!("longer than any here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lengths_count_themselves() {
        for len in [0, 10, 61, 62, 63, 64, 300, 4000] {
            let bytes = package(&[SCOPE_OP], &vec![0; len]);
            let (total, own) = unpack(&bytes[1..]);
            assert_eq!((total, total - own), (bytes.len() - 1, len));
        }
        assert_eq!(package(&[SCOPE_OP], &vec![0; 5000]).len(), 5000 + 4);
    }
}
