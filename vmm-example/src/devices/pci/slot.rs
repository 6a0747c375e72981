//! The place of a device on the bus: its device number, which never changes.

/// The maximum number of devices of a guest: each has its own section of the state.
pub(crate) const MAX_DEVICES: usize = 8;

/// The place of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PciSlot(u8);

impl PciSlot {
    /// `None` if the bus has no such place.
    pub(crate) fn new(index: u8) -> Option<Self> {
        (usize::from(index) < MAX_DEVICES).then_some(Self(index))
    }

    /// All places, in order.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..MAX_DEVICES as u8).map(Self)
    }

    /// The place of a device number; device 0 is the bridge.
    pub(super) fn of_device(number: u8) -> Option<Self> {
        Self::new(number.checked_sub(1)?)
    }

    pub(crate) fn index(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_has_no_place() {
        assert_eq!(PciSlot::of_device(0), None);
        assert_eq!(PciSlot::of_device(1), PciSlot::new(0));
        assert_eq!(PciSlot::of_device(9), None);
        assert_eq!(PciSlot::all().count(), MAX_DEVICES);
    }
}
