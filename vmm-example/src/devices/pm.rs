//! As much of ACPI's power management as switches the machine off.

use std::sync::Mutex;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

/// Ports of the event registers: status, then enable, two bytes each.
pub(crate) const EVENTS: u16 = 0x600;
pub(crate) const EVENTS_LEN: u8 = 4;
/// Ports of the control register.
pub(crate) const CONTROL: u16 = 0x604;
pub(crate) const CONTROL_LEN: u8 = 2;
/// The sleep type that switches off.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;

const STATUS: u16 = EVENTS;
const ENABLE: u16 = EVENTS + 2;
/// ACPI mode is on, as ever.
const SCI_ENABLED: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_TYPE_MASK: u16 = 7;
const SLEEP_ENABLE: u16 = 1 << 13;

/// The power management registers, version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PmStateV1 {
    /// The enable register. No event ever happens.
    pub(crate) enable: u16,
}

/// The live device.
#[derive(Debug, Default)]
pub(crate) struct PowerManagement {
    state: Mutex<PmStateV1>,
}

impl PowerManagement {
    pub(crate) fn from_state(state: PmStateV1) -> Self {
        Self {
            state: Mutex::new(state),
        }
    }

    pub(crate) fn state(&self) -> PmStateV1 {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a read of two bytes returns, if the port is one of these.
    pub(super) fn read(&self, port: u16) -> Option<u16> {
        match port {
            STATUS => Some(0),
            ENABLE => Some(self.state().enable),
            CONTROL => Some(SCI_ENABLED),
            _ => None,
        }
    }

    /// Takes a write of two bytes; true if it switches the machine off.
    pub(super) fn write(&self, port: u16, value: u16) -> bool {
        match port {
            ENABLE => {
                self.state
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .enable = value;
                false
            }
            CONTROL => {
                let sleep_type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
                value & SLEEP_ENABLE != 0 && sleep_type == u16::from(SLEEP_TYPE_OFF)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_sleep_type_switches_off() {
        let pm = PowerManagement::default();
        let off = SLEEP_ENABLE | (u16::from(SLEEP_TYPE_OFF) << SLEEP_TYPE_SHIFT);
        assert!(pm.write(CONTROL, off));
        assert!(!pm.write(CONTROL, off & !SLEEP_ENABLE));
        assert!(!pm.write(CONTROL, SLEEP_ENABLE | (1 << SLEEP_TYPE_SHIFT)));
        assert!(!pm.write(ENABLE, off));
    }

    #[test]
    fn what_is_enabled_survives() {
        let pm = PowerManagement::default();
        pm.write(ENABLE, 0x20);
        let restored = PowerManagement::from_state(pm.state());
        assert_eq!(restored.read(ENABLE), Some(0x20));
        assert_eq!(restored.read(CONTROL), Some(SCI_ENABLED));
        assert_eq!(restored.read(0x608), None);
    }
}
