//! Numbered frames: sent from outside the host to a scenario's device.
//!
//! Each frame names the device it was sent to and its own number, and is filled with a pattern made
//! of both. So a frame that is lost, repeated, torn or meant for another device can be recognised.

use serde::{Deserialize, Serialize};

use crate::witness;

/// Bytes of a frame on the wire, without the checksum.
pub const FRAME_LEN: usize = 256;
/// An EtherType for experiments on one link (IEEE 802, local experimental 1).
pub const ETHER_TYPE: u16 = 0x88b5;
const HEADER_LEN: usize = 14;
/// Selects the pattern, see [`witness::pattern`].
const SEED: u64 = 0xf3a3;

/// The byte of the sender's address that names the destination device.
const DEVICE_AT: usize = 11;

/// The frame with this number for this device, as a broadcast.
pub fn frame(device: u8, number: u64) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].fill(0xff);
    // A unicast address, locally administered.
    frame[6] = 2;
    frame[DEVICE_AT] = device;
    frame[12..HEADER_LEN].copy_from_slice(&ETHER_TYPE.to_be_bytes());
    frame[HEADER_LEN..HEADER_LEN + 8].copy_from_slice(&number.to_le_bytes());
    for (index, word) in frame[HEADER_LEN + 8..].chunks_mut(8).enumerate() {
        let pattern = witness::pattern(SEED, number, u32::from(device), index as u64).to_le_bytes();
        word.copy_from_slice(&pattern[..word.len()]);
    }
    frame
}

/// The device that a frame was sent to, and its number; `None` if the frame is torn or is not one
/// of these.
pub fn identify(bytes: &[u8]) -> Option<(u8, u64)> {
    let device = *bytes.get(DEVICE_AT)?;
    let number = bytes.get(HEADER_LEN..HEADER_LEN + 8)?.try_into().ok()?;
    let number = u64::from_le_bytes(number);
    (bytes == frame(device, number)).then_some((device, number))
}

/// The frames received, in order of arrival.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The device that the first frame was sent to.
    pub device: Option<u8>,
    /// The first number, and the highest.
    pub first: Option<u64>,
    pub last: Option<u64>,
    /// Intact frames, each number counted once.
    pub received: u64,
    /// Numbers between the first and the last that did not arrive in sequence.
    pub lost: u64,
    /// Frames whose number was not higher than all numbers before.
    pub repeated: u64,
    /// Frames that differ from what was sent, or were sent to another device.
    pub torn: u64,
    /// The longest time without another intact frame. Only the receiver has a clock, and fills it in.
    pub largest_gap_ns: u64,
}

impl Counted {
    /// Counts a frame of [`ETHER_TYPE`].
    pub fn take(&mut self, bytes: &[u8]) {
        let number = match identify(bytes) {
            Some((device, number)) if *self.device.get_or_insert(device) == device => number,
            _ => {
                self.torn += 1;
                return;
            }
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
            counted.take(&frame(1, number));
        }
        counted.take(&frame(1, 11)[..60]);
        counted.take(&frame(0, 11));
        let expected = Counted {
            device: Some(1),
            first: Some(5),
            last: Some(10),
            received: 4,
            lost: 2,
            repeated: 2,
            torn: 2,
            largest_gap_ns: 0,
        };
        assert_eq!(counted, expected);
    }

    #[test]
    fn a_frame_tells_its_device_and_its_number_and_a_torn_one_does_not() {
        assert_eq!(identify(&frame(1, 7)), Some((1, 7)));
        let mut torn = frame(1, 7);
        torn[200..].copy_from_slice(&frame(1, 8)[200..]);
        assert_eq!(identify(&torn), None);
        assert_eq!(identify(&frame(1, 7)[..100]), None);
        assert_eq!(identify(&frame(1, 7)[..5]), None);
    }
}
