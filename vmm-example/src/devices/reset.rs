//! The part of an i8042 that resets the machine. There is no keyboard.

const DATA: u16 = 0x60;
pub(crate) const COMMAND: u16 = 0x64;
pub(crate) const CMD_PULSE_RESET: u8 = 0xfe;
/// Output buffer full, input buffer empty. A kernel that probes for a controller finds a buffer
/// that never drains and gives up at once; one that resets finds it ready.
const STATUS: u8 = 0x01;

/// The value of a read from `port`, if it is one of the controller's.
pub(super) fn read(port: u16) -> Option<u8> {
    match port {
        DATA => Some(0),
        COMMAND => Some(STATUS),
        _ => None,
    }
}

/// Whether a write resets the machine.
pub(super) fn is_reset(port: u16, data: &[u8]) -> bool {
    port == COMMAND && data == [CMD_PULSE_RESET]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pulse_resets() {
        assert!(is_reset(0x64, &[0xfe]));
        assert!(!is_reset(0x60, &[0xfe]));
        assert!(!is_reset(0x64, &[0xaa]));
        assert!(!is_reset(0x64, &[0xfe, 0xfe]));
    }

    #[test]
    fn the_controller_is_ready_for_a_command() {
        assert_eq!(read(0x64).unwrap() & 0x02, 0);
        assert_eq!(read(0x61), None);
    }
}
