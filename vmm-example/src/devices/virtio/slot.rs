//! The place of a device in the machine: its page of registers and its interrupt line.
//!
//! The slot is part of the guest's hardware: it never changes.

use serde::{Deserialize, Serialize};

use crate::memory::layout::VIRTIO_MMIO;

/// The maximum number of devices: each has a line of the I/O APIC that no ISA device uses.
pub(crate) const MAX_DEVICES: usize = 8;
/// The distance between the registers of two devices, in bytes.
pub(crate) const STRIDE: u64 = 0x1000;
/// The first line after those of ISA devices.
const FIRST_GSI: u32 = 16;
/// The offset of the register by which the guest notifies the device of new buffers.
pub(super) const QUEUE_NOTIFY: u64 = 0x50;

/// The place of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u8);

impl Slot {
    /// `None` if the machine has no such slot.
    pub(crate) fn new(index: u8) -> Option<Self> {
        (usize::from(index) < MAX_DEVICES).then_some(Self(index))
    }

    /// All slots, in order.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..MAX_DEVICES as u8).map(Self)
    }

    /// The slot of an address, and the offset in it.
    pub(super) fn at(addr: u64) -> Option<(Self, u64)> {
        let offset = addr.checked_sub(VIRTIO_MMIO)?;
        let slot = Self::new(u8::try_from(offset / STRIDE).ok()?)?;
        Some((slot, offset % STRIDE))
    }

    pub(crate) fn index(self) -> u8 {
        self.0
    }

    /// The start of the registers.
    pub(crate) fn base(self) -> u64 {
        VIRTIO_MMIO + u64::from(self.0) * STRIDE
    }

    /// The interrupt line.
    pub(crate) fn gsi(self) -> u32 {
        FIRST_GSI + u32::from(self.0)
    }
}

/// The slot of a device, and its number of rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotLayout {
    pub(crate) slot: u8,
    pub(crate) rings: u8,
}

impl SlotLayout {
    pub(super) fn of(slot: Slot, rings: usize) -> Self {
        Self {
            slot: slot.index(),
            rings: u8::try_from(rings).unwrap_or(u8::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::{HIGH_RAM_START, HOLE_START};

    #[test]
    fn slots_lie_in_the_hole_and_on_pins_of_the_io_apic() {
        for slot in Slot::all() {
            assert!(slot.base() >= HOLE_START);
            assert!(slot.base() + STRIDE <= 0xfec0_0000 && STRIDE < HIGH_RAM_START);
            assert!((16..24).contains(&slot.gsi()));
        }
    }

    #[test]
    fn an_address_leads_to_its_slot() {
        let slot = Slot::new(3).unwrap();
        assert_eq!(Slot::at(slot.base() + 0x70), Some((slot, 0x70)));
        assert_eq!(Slot::at(VIRTIO_MMIO - 1), None);
        assert_eq!(Slot::at(VIRTIO_MMIO + MAX_DEVICES as u64 * STRIDE), None);
        assert_eq!(Slot::new(8), None);
    }
}
