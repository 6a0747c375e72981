//! The I/O ports of a machine, and the devices that are at them.

use std::sync::Arc;

use super::pm::PowerManagement;
use super::reset;
use super::serial::{self, SerialPort};

/// The result of a write to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortWrite {
    Done,
    /// The guest has reset itself.
    Reset,
    /// The guest has switched itself off.
    Off,
}

/// The I/O ports of a machine. KVM itself handles the PICs, the timer and its speaker.
#[derive(Debug)]
pub(crate) struct PortBus {
    serial: Arc<SerialPort>,
    pm: PowerManagement,
}

impl PortBus {
    pub(crate) fn new(serial: SerialPort, pm: PowerManagement) -> Self {
        Self {
            serial: Arc::new(serial),
            pm,
        }
    }

    pub(crate) fn serial(&self) -> &Arc<SerialPort> {
        &self.serial
    }

    pub(crate) fn pm(&self) -> &PowerManagement {
        &self.pm
    }

    /// Resets to the power-on state.
    pub(crate) fn reset(&self) {
        self.serial.reset();
        self.pm.reset();
    }

    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        // Ports without a device read as all ones.
        data.fill(0xff);
        match data {
            [byte] => {
                let value = serial::offset(port)
                    .map(|offset| self.serial.read(offset))
                    .or_else(|| reset::read(port));
                *byte = value.unwrap_or(*byte);
            }
            [_, _] => {
                if let Some(value) = self.pm.read(port) {
                    data.copy_from_slice(&value.to_le_bytes());
                }
            }
            _ => {}
        }
    }

    pub(crate) fn write(&self, port: u16, data: &[u8]) -> PortWrite {
        if let Some(offset) = serial::offset(port) {
            // `rep outsb` writes several bytes to one port.
            data.iter()
                .for_each(|&value| self.serial.write(offset, value));
            return PortWrite::Done;
        }
        match data {
            [low, high] if self.pm.write(port, u16::from_le_bytes([*low, *high])) => PortWrite::Off,
            _ if reset::is_reset(port, data) => PortWrite::Reset,
            _ => PortWrite::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pm;
    use super::*;
    use crate::devices::console::Console;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    fn bus() -> PortBus {
        let console = Arc::new(Console::buffer());
        let serial = SerialPort::new(EventFd::new(EFD_NONBLOCK).unwrap(), console);
        PortBus::new(serial, PowerManagement::unwired())
    }

    #[test]
    fn ports_without_a_device_float_high() {
        for len in [1, 2, 4] {
            let mut data = vec![0; len];
            bus().read(0x2f8, &mut data);
            assert!(data.iter().all(|&byte| byte == 0xff));
        }
    }

    #[test]
    fn devices_answer_at_their_width_only() {
        let bus = bus();
        let mut wide = [0; 2];
        bus.read(pm::CONTROL, &mut wide);
        assert_eq!(wide, [1, 0]);
        let mut byte = [0];
        bus.read(pm::CONTROL, &mut byte);
        assert_eq!(byte, [0xff]);
    }

    #[test]
    fn a_reset_and_a_switch_off_end_the_guest() {
        let bus = bus();
        assert_eq!(
            bus.write(reset::COMMAND, &[reset::CMD_PULSE_RESET]),
            PortWrite::Reset
        );
        assert_eq!(bus.write(pm::CONTROL, &[0, 0x34]), PortWrite::Off);
        assert_eq!(bus.write(0x80, &[0]), PortWrite::Done);
    }
}
