//! MSI-X as the guest sees it: the emulated table and pending bits.
//!
//! PCI Local Bus Specification 3.0, section 6.8.2. The device's own table belongs to the host.

use serde::{Deserialize, Serialize};

use super::bars::BarStateV1;
use crate::devices::pci::routes::Message;

/// The size of a table entry in bytes.
const ENTRY: usize = 16;
/// The mask bit, in the last word of an entry.
const MASKED: u32 = 1;

/// The location of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MsixLayout {
    pub(super) vectors: u16,
    pub(super) table: BarRange,
    pub(super) pending: BarRange,
}

/// A part of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BarRange {
    pub(super) bar: u8,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl BarRange {
    /// The offset in the table of an access to a BAR; `None` if it is elsewhere.
    pub(super) fn find(&self, bar: u8, offset: u64) -> Option<usize> {
        let at = offset.checked_sub(self.offset)?;
        (bar == self.bar && at < self.len).then_some(at as usize)
    }

    /// Whether it is entirely inside one of these BARs.
    fn is_in(&self, bars: &[BarStateV1]) -> bool {
        bars.iter()
            .any(|bar| bar.index == self.bar && self.offset + self.len <= bar.size)
    }
}

impl MsixLayout {
    /// Parses the registers of the capability.
    pub(super) fn new(control: u16, table: u32, pending: u32) -> Self {
        let vectors = (control & 0x7ff) + 1;
        let range = |register: u32, len: u64| BarRange {
            bar: (register & 7) as u8,
            offset: u64::from(register & !7),
            len,
        };
        Self {
            vectors,
            table: range(table, u64::from(vectors) * ENTRY as u64),
            pending: range(pending, u64::from(vectors).div_ceil(64) * 8),
        }
    }

    /// Whether both are inside BARs that the device has.
    pub(super) fn is_in(&self, bars: &[BarStateV1]) -> bool {
        self.table.is_in(bars) && self.pending.is_in(bars)
    }
}

/// An interrupt of a device, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VectorStateV1 {
    pub(super) address: u64,
    pub(super) data: u32,
    pub(super) masked: bool,
}

impl VectorStateV1 {
    pub(super) fn message(&self) -> Message {
        Message {
            address: self.address,
            data: self.data,
        }
    }

    /// Whether it has a destination.
    pub(super) fn is_set_up(&self) -> bool {
        self.address != 0
    }

    pub(super) fn bytes(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.data.to_le_bytes());
        bytes[12..].copy_from_slice(&u32::from(self.masked).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; ENTRY]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self {
            // The lowest two bits are always zero.
            address: u64::from(word(0) & !3) | u64::from(word(4)) << 32,
            data: word(8),
            masked: word(12) & MASKED != 0,
        }
    }
}

/// The interrupts of a device, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MsixStateV1 {
    pub(super) vectors: Vec<VectorStateV1>,
}

/// The table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MsixTable {
    vectors: Vec<VectorStateV1>,
}

impl MsixTable {
    /// A table in its power-on state: everything is masked.
    pub(super) fn new(vectors: u16) -> Self {
        let masked = VectorStateV1 {
            address: 0,
            data: 0,
            masked: true,
        };
        Self {
            vectors: vec![masked; vectors.into()],
        }
    }

    pub(super) fn from_state(state: &MsixStateV1) -> Self {
        Self {
            vectors: state.vectors.clone(),
        }
    }

    pub(super) fn state(&self) -> MsixStateV1 {
        MsixStateV1 {
            vectors: self.vectors.clone(),
        }
    }

    pub(super) fn vectors(&self) -> &[VectorStateV1] {
        &self.vectors
    }

    /// Reads from the table; an access that is not inside one entry reads zeros.
    pub(super) fn read(&self, at: usize, data: &mut [u8]) {
        data.fill(0);
        if let Some(vector) = self.vectors.get(at / ENTRY) {
            let bytes = vector.bytes();
            let from = bytes.iter().skip(at % ENTRY);
            data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    }

    /// Writes to the table.
    pub(super) fn write(&mut self, at: usize, data: &[u8]) {
        if let Some(vector) = self.vectors.get_mut(at / ENTRY) {
            let mut bytes = vector.bytes();
            let to = bytes.iter_mut().skip(at % ENTRY);
            to.zip(data).for_each(|(to, from)| *to = *from);
            *vector = VectorStateV1::from_bytes(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registers_say_where_the_tables_are() {
        let layout = MsixLayout::new(0x8004, 0x0003, 0x2003);
        assert_eq!(layout.vectors, 5);
        let table = BarRange {
            bar: 3,
            offset: 0,
            len: 80,
        };
        assert_eq!(layout.table, table);
        assert_eq!((layout.pending.offset, layout.pending.len), (0x2000, 8));
        assert_eq!(layout.table.find(3, 79), Some(79));
        assert_eq!(layout.table.find(3, 80), None);
        assert_eq!(layout.table.find(0, 0), None);
    }

    #[test]
    fn an_entry_is_written_and_read_in_parts() {
        let mut table = MsixTable::new(2);
        table.write(16, &0xfee0_1003u32.to_le_bytes());
        table.write(24, &0x4041u32.to_le_bytes());
        table.write(28, &[0; 4]);
        let vector = table.vectors()[1];
        let message = Message {
            address: 0xfee0_1000,
            data: 0x4041,
        };
        assert_eq!((vector.message(), vector.masked), (message, false));
        let mut wide = [0; 8];
        table.read(24, &mut wide);
        assert_eq!(wide, [0x41, 0x40, 0, 0, 0, 0, 0, 0]);
        assert!(table.vectors()[0].masked, "the other one has changed");
    }

    #[test]
    fn what_is_beyond_the_table_is_nothing() {
        let mut table = MsixTable::new(1);
        table.write(16, &[0xff; 4]);
        table.write(12, &[0; 8]);
        let mut data = [7; 4];
        table.read(16, &mut data);
        assert_eq!(data, [0; 4]);
        assert!(!table.vectors()[0].masked);
    }
}
