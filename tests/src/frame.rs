//! Numbered frames: what a scenario's device receives from outside the host.
//!
//! Each says which one it is and is filled with a pattern of its number, so that one that is lost,
//! came twice or is half of another is known by itself.

use serde::{Deserialize, Serialize};

use crate::witness;

/// Bytes of a frame on the wire, without the checksum.
pub const FRAME_LEN: usize = 256;
/// An EtherType for experiments on one link (IEEE 802, local experimental 1).
pub const ETHER_TYPE: u16 = 0x88b5;
const HEADER_LEN: usize = 14;
/// The kind of pattern, see [`witness::pattern`].
const SEED: u64 = 0xf3a3;

/// The frame of this number, to everybody.
pub fn frame(number: u64) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].fill(0xff);
    // A unicast address, locally administered.
    frame[6] = 2;
    frame[12..HEADER_LEN].copy_from_slice(&ETHER_TYPE.to_be_bytes());
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

/// What came, in the order in which it came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The first number, and the highest.
    pub first: Option<u64>,
    pub last: Option<u64>,
    /// Whole frames, each number once.
    pub received: u64,
    /// Numbers between first and last that did not come in their turn.
    pub lost: u64,
    /// Frames whose number was not higher than all before.
    pub repeated: u64,
    /// Frames that are not as they were sent.
    pub torn: u64,
}

impl Counted {
    /// Counts a frame of [`ETHER_TYPE`].
    pub fn take(&mut self, bytes: &[u8]) {
        let Some(number) = number(bytes) else {
            self.torn += 1;
            return;
        };
        match self.last {
            Some(last) if number <= last => {
                self.repeated += 1;
                return;
            }
            Some(last) => self.lost += number - last - 1,
            None => self.first = Some(number),
        }
        self.last = Some(number);
        self.received += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_repeated_and_torn_frames_are_told_apart() {
        let mut counted = Counted::default();
        for number in [5, 6, 9, 9, 7, 10] {
            counted.take(&frame(number));
        }
        counted.take(&frame(11)[..60]);
        let expected = Counted {
            first: Some(5),
            last: Some(10),
            received: 4,
            lost: 2,
            repeated: 2,
            torn: 1,
        };
        assert_eq!(counted, expected);
    }

    #[test]
    fn a_frame_tells_its_number_and_a_torn_one_does_not() {
        assert_eq!(number(&frame(7)), Some(7));
        let mut torn = frame(7);
        torn[200..].copy_from_slice(&frame(8)[200..]);
        assert_eq!(number(&torn), None);
        assert_eq!(number(&frame(7)[..100]), None);
    }
}
