//! The memory of a device: its BARs, and their initial addresses in the guest.
//!
//! PCI Local Bus Specification 3.0, section 6.2.5.1. I/O ports of a device are not offered: a
//! device that does not also have a memory BAR cannot be passed through.

use serde::{Deserialize, Serialize};

use crate::memory::layout::{PCI_WINDOW, PCI_WINDOW_LEN};

/// The number of BARs of a function.
pub(super) const COUNT: u8 = 6;
/// The offset of the first one in configuration space.
pub(super) const OFFSET: u8 = 0x10;
pub(super) const PAGE: u64 = 0x1000;

const IO: u8 = 1 << 0;
const TYPE: u8 = 3 << 1;
const TYPE_64: u8 = 2 << 1;
const PREFETCHABLE: u8 = 1 << 3;

/// A memory BAR, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BarStateV1 {
    /// The first of its registers, from 0 to 5.
    pub(super) index: u8,
    /// Whether its address has 64 bits, in two registers.
    pub(super) wide: bool,
    pub(super) prefetchable: bool,
    /// Size in bytes, a power of two.
    pub(super) size: u64,
}

impl BarStateV1 {
    /// The offset of its first register in configuration space.
    pub(super) fn offset(&self) -> usize {
        usize::from(OFFSET + 4 * self.index)
    }

    /// The size of its registers in bytes.
    pub(super) fn len(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    /// The register values for an address.
    pub(super) fn registers(&self, address: u64) -> [u8; 8] {
        let mut bytes = (address & !(self.size - 1)).to_le_bytes();
        bytes[0] |= if self.wide { TYPE_64 } else { 0 };
        bytes[0] |= if self.prefetchable { PREFETCHABLE } else { 0 };
        bytes
    }

    /// The writable bits of the registers: those of multiples of the size.
    pub(super) fn writable(&self) -> [u8; 8] {
        (!(self.size.max(16) - 1)).to_le_bytes()
    }

    /// The address in the registers of a configuration space.
    pub(super) fn address(&self, config: &[u8; 256]) -> u64 {
        let mut bytes = [0; 8];
        let from = &config[self.offset()..self.offset() + self.len()];
        bytes[..self.len()].copy_from_slice(from);
        u64::from_le_bytes(bytes) & !(self.size.max(16) - 1)
    }

    /// Whether a BAR from a state is valid.
    pub(super) fn is_sound(&self) -> bool {
        self.size.is_power_of_two()
            && (16..=PCI_WINDOW_LEN).contains(&self.size)
            && self.index <= COUNT - self.registers_used()
    }

    /// Whether two valid BARs share a register.
    pub(super) fn shares_register(&self, other: &Self) -> bool {
        self.index < other.index + other.registers_used()
            && other.index < self.index + self.registers_used()
    }

    fn registers_used(&self) -> u8 {
        if self.wide { 2 } else { 1 }
    }
}

/// The BARs of a device with this configuration space header. `size` returns the size of each in
/// bytes.
pub(super) fn probe(config: &[u8; 256], size: impl Fn(u8) -> u64) -> Vec<BarStateV1> {
    let mut bars = Vec::new();
    let mut index = 0;
    while index < COUNT {
        let kind = config[usize::from(OFFSET + 4 * index)];
        let wide = kind & IO == 0 && kind & TYPE == TYPE_64 && index + 1 < COUNT;
        let size = size(index);
        if kind & IO == 0 && size != 0 {
            bars.push(BarStateV1 {
                index,
                wide,
                prefetchable: kind & PREFETCHABLE != 0,
                size: size.next_power_of_two().max(16),
            });
        }
        index += if wide { 2 } else { 1 };
    }
    bars
}

/// The address space for a guest's BARs, allocated from the bottom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    next: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { next: PCI_WINDOW }
    }
}

impl Room {
    /// Allocates an address for each BAR; returns the first one that does not fit. No two share a
    /// page, so that each can be mapped separately.
    pub(super) fn place(&mut self, bars: &[BarStateV1]) -> Result<Vec<u64>, BarStateV1> {
        let mut addresses = vec![0; bars.len()];
        let mut order: Vec<usize> = (0..bars.len()).collect();
        // Placing the largest first leaves the smallest gaps.
        order.sort_by_key(|at| std::cmp::Reverse(bars[*at].size));
        for at in order {
            let size = bars[at].size.max(PAGE);
            let start = self.next.next_multiple_of(size);
            if start + size > PCI_WINDOW + PCI_WINDOW_LEN {
                return Err(bars[at]);
            }
            addresses[at] = start;
            self.next = start + size;
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(index: u8, size: u64) -> BarStateV1 {
        BarStateV1 {
            index,
            wide: false,
            prefetchable: false,
            size,
        }
    }

    #[test]
    fn memory_is_found_and_ports_are_not() {
        let mut config = [0; 256];
        config[0x18] = 1; // BAR 2: ports
        config[0x1c] = 0x0c; // BAR 3: 64 bits, prefetchable
        let sizes = [0x2_0000, 0, 0x20, 0x4000, 0x99, 0];
        let bars = probe(&config, |index| sizes[usize::from(index)]);
        let wide = BarStateV1 {
            wide: true,
            prefetchable: true,
            ..bar(3, 0x4000)
        };
        assert_eq!(bars, [bar(0, 0x2_0000), wide]);
    }

    #[test]
    fn a_register_keeps_its_kind_and_the_bits_of_an_address() {
        let wide = BarStateV1 {
            wide: true,
            prefetchable: true,
            ..bar(0, 0x4000)
        };
        assert_eq!(wide.registers(0xe000_5000)[..4], [0x0c, 0x40, 0, 0xe0]);
        assert_eq!(wide.writable(), [0, 0xc0, 255, 255, 255, 255, 255, 255]);
        let mut config = [0; 256];
        config[0x10..0x18].copy_from_slice(&wide.registers(0x12_e000_4000));
        assert_eq!(wide.address(&config), 0x12_e000_4000);
        assert_eq!(bar(0, 0x4000).address(&config), 0xe000_4000);
    }

    #[test]
    fn bars_are_aligned_and_share_no_page() {
        let bars = [bar(0, 0x100), bar(1, 0x2_0000), bar(2, 0x4000)];
        let mut room = Room::default();
        let first = room.place(&bars).unwrap();
        let second = room.place(&bars).unwrap();
        let mut ranges: Vec<_> = first
            .iter()
            .chain(&second)
            .zip(bars.iter().chain(&bars))
            .map(|(start, bar)| (*start, bar.size.max(PAGE)))
            .collect();
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        assert!(ranges.iter().all(|(start, size)| start % size == 0));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let bars = [bar(0, PCI_WINDOW_LEN.next_power_of_two())];
        assert_eq!(Room::default().place(&bars), Err(bars[0]));
    }
}
