//! The part of ACPI power management that switches the machine off, and its power button.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Ports of the event registers: status, then enable, two bytes each.
pub(crate) const EVENTS: u16 = 0x600;
pub(crate) const EVENTS_LEN: u8 = 4;
/// Ports of the control register.
pub(crate) const CONTROL: u16 = 0x604;
pub(crate) const CONTROL_LEN: u8 = 2;
/// The sleep type for power off.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;
/// The interrupt line for events; it stays asserted while one is pending.
pub(crate) const SCI: u8 = 9;

const STATUS: u16 = EVENTS;
const ENABLE: u16 = EVENTS + 2;
/// In both event registers: the power button was pressed.
const POWER_BUTTON: u16 = 1 << 8;
/// ACPI mode is enabled, always.
const SCI_ENABLED: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_TYPE_MASK: u16 = 7;
const SLEEP_ENABLE: u16 = 1 << 13;

/// The power management registers, version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PmStateV1 {
    /// The enable register.
    pub(crate) enable: u16,
    /// The status register: events that the guest has not cleared yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) status: u16,
}

fn is_zero(status: &u16) -> bool {
    *status == 0
}

/// Sets the level of the interrupt line.
pub(crate) type Line = Box<dyn Fn(bool) + Send + Sync>;

/// The live device.
pub(crate) struct PowerManagement {
    state: Mutex<PmStateV1>,
    line: Line,
}

impl fmt::Debug for PowerManagement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PowerManagement")
            .field(&self.state())
            .finish()
    }
}

impl PowerManagement {
    pub(crate) fn new(line: Line) -> Self {
        Self::from_state(PmStateV1::default(), line)
    }

    pub(crate) fn from_state(state: PmStateV1, line: Line) -> Self {
        let pm = Self {
            state: Mutex::new(state),
            line,
        };
        pm.change(|_| {});
        pm
    }

    pub(crate) fn state(&self) -> PmStateV1 {
        *self.lock()
    }

    /// Resets to the power-on state.
    pub(crate) fn reset(&self) {
        self.change(|state| *state = PmStateV1::default());
    }

    /// Presses the power button; false if the guest has not enabled it.
    pub(crate) fn press_power_button(&self) -> bool {
        self.change(|state| {
            state.status |= POWER_BUTTON;
            state.enable & POWER_BUTTON != 0
        })
    }

    /// The value of a two-byte read, if the port is one of these.
    pub(super) fn read(&self, port: u16) -> Option<u16> {
        match port {
            STATUS => Some(self.state().status),
            ENABLE => Some(self.state().enable),
            CONTROL => Some(SCI_ENABLED),
            _ => None,
        }
    }

    /// Handles a two-byte write; true if it switches the machine off.
    pub(super) fn write(&self, port: u16, value: u16) -> bool {
        match port {
            // Writing 1 clears a bit.
            STATUS => self.change(|state| state.status &= !value),
            ENABLE => self.change(|state| state.enable = value),
            CONTROL => {
                let sleep_type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
                return value & SLEEP_ENABLE != 0 && sleep_type == u16::from(SLEEP_TYPE_OFF);
            }
            _ => {}
        }
        false
    }

    /// Changes registers and the line together: nobody sees one without the other.
    fn change<T>(&self, change: impl FnOnce(&mut PmStateV1) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        (self.line)(state.status & state.enable != 0);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, PmStateV1> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl PowerManagement {
    /// An instance whose line is not connected.
    pub(crate) fn unwired() -> Self {
        Self::new(Box::new(|_| {}))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn only_the_right_sleep_type_switches_off() {
        let pm = PowerManagement::unwired();
        let off = SLEEP_ENABLE | (u16::from(SLEEP_TYPE_OFF) << SLEEP_TYPE_SHIFT);
        assert!(pm.write(CONTROL, off));
        assert!(!pm.write(CONTROL, off & !SLEEP_ENABLE));
        assert!(!pm.write(CONTROL, SLEEP_ENABLE | (1 << SLEEP_TYPE_SHIFT)));
        assert!(!pm.write(ENABLE, off));
    }

    fn wired(state: PmStateV1) -> (PowerManagement, Arc<AtomicBool>) {
        let level = Arc::new(AtomicBool::new(false));
        let line = level.clone();
        let line = Box::new(move |to| line.store(to, Ordering::SeqCst));
        (PowerManagement::from_state(state, line), level)
    }

    #[test]
    fn the_button_interrupts_until_it_is_heard_of() {
        let (pm, level) = wired(PmStateV1::default());
        assert!(!pm.press_power_button(), "nobody listens yet");
        assert!(!level.load(Ordering::SeqCst));
        pm.write(ENABLE, POWER_BUTTON);
        assert!(level.load(Ordering::SeqCst));
        assert_eq!(pm.read(STATUS), Some(POWER_BUTTON));
        pm.write(STATUS, POWER_BUTTON);
        assert!(!level.load(Ordering::SeqCst));
        assert_eq!(pm.read(STATUS), Some(0));
        assert!(pm.press_power_button());
        pm.reset();
        assert!(!level.load(Ordering::SeqCst));
        assert_eq!(pm.state(), PmStateV1::default());
    }

    #[test]
    fn what_is_enabled_and_what_is_pressed_survives() {
        let (pm, _) = wired(PmStateV1::default());
        pm.write(ENABLE, POWER_BUTTON);
        pm.press_power_button();
        let (restored, level) = wired(pm.state());
        assert!(level.load(Ordering::SeqCst), "the press was lost");
        assert_eq!(restored.read(ENABLE), Some(POWER_BUTTON));
        assert_eq!(restored.read(STATUS), Some(POWER_BUTTON));
        assert_eq!(restored.read(CONTROL), Some(SCI_ENABLED));
        assert_eq!(restored.read(0x608), None);
    }
}
