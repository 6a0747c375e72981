//! Numbered frames: what a scenario's device receives from outside the host.
//!
//! Each says which one it is and is filled with a pattern of its number, so that one that is lost,
//! came twice or is half of another is known by itself.

use crate::witness;

/// Bytes of a frame on the wire, without the checksum.
pub const FRAME_LEN: usize = 256;
/// An EtherType for experiments on one link (IEEE 802, local experimental 1).
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
const HEADER_LEN: usize = 14;
/// The kind of pattern, see [`witness::pattern`].
const SEED: u64 = 0xf3a3;

/// The frame of this number, to everybody.
pub fn frame(number: u64) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].fill(0xff);
    // A unicast address, locally administered.
    frame[6] = 2;
    frame[12..HEADER_LEN].copy_from_slice(&ETHER_TYPE);
    frame[HEADER_LEN..HEADER_LEN + 8].copy_from_slice(&number.to_le_bytes());
    for (index, word) in frame[HEADER_LEN + 8..].chunks_mut(8).enumerate() {
        let pattern = witness::pattern(SEED, number, 0, index as u64).to_le_bytes();
        word.copy_from_slice(&pattern[..word.len()]);
    }
    frame
}

/// The number of a frame; `None` when it is torn or none of ours.
pub fn number(bytes: &[u8]) -> Option<u64> {
    let number = bytes.get(HEADER_LEN..HEADER_LEN + 8)?.try_into().ok()?;
    let number = u64::from_le_bytes(number);
    (bytes == frame(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_tells_its_number_and_a_torn_one_does_not() {
        assert_eq!(number(&frame(7)), Some(7));
        let mut torn = frame(7);
        torn[200..].copy_from_slice(&frame(8)[200..]);
        assert_eq!(number(&torn), None);
        assert_eq!(number(&frame(7)[..100]), None);
    }
}
