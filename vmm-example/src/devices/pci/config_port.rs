//! Configuration mechanism #1: an address port, and a data port for the register at that address.
//!
//! PCI Local Bus Specification 3.0, section 3.2.2.3.2.

/// The address port, four bytes wide.
pub(super) const ADDRESS: u16 = 0xcf8;
/// The data port: the four bytes at the address.
pub(super) const DATA: u16 = 0xcfc;
/// The number of ports that the two occupy.
pub(super) const PORTS: u8 = 8;

/// The bits of the address port that are kept; the rest is reserved.
const ADDRESS_BITS: u32 = 0x80ff_fffc;
const ENABLE: u32 = 1 << 31;

/// A register of a function on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Register {
    pub(super) device: u8,
    pub(super) function: u8,
    /// Offset in the 256 bytes of configuration space.
    pub(super) offset: u8,
}

/// The value last written to the address port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Address(u32);

impl Address {
    pub(super) fn new(value: u32) -> Self {
        Self(value & ADDRESS_BITS)
    }

    pub(super) fn value(self) -> u32 {
        self.0
    }

    /// The register that an access to the data port reaches; `None` if it is disabled, or on
    /// another bus.
    pub(super) fn register(self, port: u16) -> Option<Register> {
        let [register, function, bus, _] = self.0.to_le_bytes();
        if self.0 & ENABLE == 0 || bus != 0 {
            return None;
        }
        let byte = port.checked_sub(DATA).filter(|byte| *byte < 4)?;
        Some(Register {
            device: function >> 3,
            function: function & 7,
            offset: register + byte as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_register() {
        let address = Address::new(0x8000_0000 | 3 << 11 | 1 << 8 | 0x10);
        let register = Register {
            device: 3,
            function: 1,
            offset: 0x12,
        };
        assert_eq!(address.register(DATA + 2), Some(register));
        assert_eq!(address.register(DATA + 4), None);
        assert_eq!(address.register(ADDRESS), None);
    }

    #[test]
    fn other_buses_and_a_port_that_is_off_reach_nothing() {
        assert_eq!(Address::new(0x10).register(DATA), None);
        assert_eq!(Address::new(0x8001_0000).register(DATA), None);
        assert_eq!(Address::new(u32::MAX).value(), 0x80ff_fffc);
    }
}
