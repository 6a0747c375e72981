//! Devices that the VMM emulates, and the I/O ports they are at.

pub(crate) mod reset;
pub(crate) mod serial;

use std::sync::Arc;

use serial::SerialPort;

/// What a write to a port led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortWrite {
    Done,
    /// The guest asked for a reset.
    Reset,
}

impl PortWrite {
    pub(crate) fn is_reset(self) -> bool {
        self == Self::Reset
    }
}

/// The I/O ports of a machine. KVM itself has the PICs, the timer and its speaker.
#[derive(Debug)]
pub(crate) struct PortBus {
    serial: Arc<SerialPort>,
}

impl PortBus {
    pub(crate) fn new(serial: Arc<SerialPort>) -> Self {
        Self { serial }
    }

    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        // Ports without a device float high.
        data.fill(0xff);
        let [byte] = data else { return };
        if let Some(offset) = serial::offset(port) {
            *byte = self.serial.read(offset);
        } else if let Some(value) = reset::read(port) {
            *byte = value;
        }
    }

    pub(crate) fn write(&self, port: u16, data: &[u8]) -> PortWrite {
        if let Some(offset) = serial::offset(port) {
            // `rep outsb` brings several bytes for one port.
            data.iter()
                .for_each(|&value| self.serial.write(offset, value));
        } else if reset::is_reset(port, data) {
            return PortWrite::Reset;
        }
        PortWrite::Done
    }
}
