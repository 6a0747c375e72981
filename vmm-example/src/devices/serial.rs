//! The serial port: a 16550 at COM1 whose output goes to the console.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::console::Console;
use crate::metrics::{Counted, Metrics};

const BASE: u16 = 0x3f8;
const PORTS: u16 = 8;
/// The interrupt line of COM1.
pub(crate) const IRQ: u32 = 4;
/// The maximum input waiting for space in the device; more is dropped, as on a real line.
const MAX_PENDING_INPUT: usize = 64 << 10;

/// Registers of the device, by offset.
mod register {
    pub(super) const DATA: u8 = 0;
    const INTERRUPT_ENABLE: u8 = 1;
    const LINE_CONTROL: u8 = 3;
    const MODEM_CONTROL: u8 = 4;
    pub(super) const LINE_STATUS: u8 = 5;
    const SCRATCH: u8 = 7;
    /// In the line status register: data ready.
    pub(super) const DATA_READY: u8 = 1;
    /// In the line control register: the first two registers are the baud rate divisor.
    const DIVISOR_ACCESS: u8 = 1 << 7;
    /// In the line control register: 8 bits.
    const EIGHT_BITS: u8 = 3;

    /// The writes that reset a device, in this order: 9600 baud.
    pub(super) const AT_RESET: [(u8, u8); 8] = [
        (LINE_CONTROL, EIGHT_BITS),
        (INTERRUPT_ENABLE, 0),
        (LINE_CONTROL, EIGHT_BITS | DIVISOR_ACCESS),
        (DATA, 12),
        (INTERRUPT_ENABLE, 0),
        (LINE_CONTROL, EIGHT_BITS),
        (MODEM_CONTROL, 8),
        (SCRATCH, 0),
    ];
}

/// The offset of `port`, if it is one of COM1's registers.
pub(super) fn offset(port: u16) -> Option<u8> {
    let offset = port.checked_sub(BASE).filter(|offset| *offset < PORTS)?;
    u8::try_from(offset).ok()
}

/// A saved state that is impossible for a serial port.
#[derive(Debug, Error)]
#[error("The saved serial port holds more input than its buffer")]
pub(crate) struct SerialStateError;

/// The serial port, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SerialStateV1 {
    pub(crate) baud_divisor_low: u8,
    pub(crate) baud_divisor_high: u8,
    pub(crate) interrupt_enable: u8,
    pub(crate) interrupt_identification: u8,
    pub(crate) line_control: u8,
    pub(crate) line_status: u8,
    pub(crate) modem_control: u8,
    pub(crate) modem_status: u8,
    pub(crate) scratch: u8,
    /// Input that the guest can read now.
    #[serde(with = "serde_bytes")]
    pub(crate) in_buffer: Vec<u8>,
    /// Input for which the device had no space yet.
    #[serde(with = "serde_bytes", default)]
    pub(crate) pending_input: Vec<u8>,
}

/// Raises the port's interrupt line.
#[derive(Debug)]
struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The port's end of the console.
#[derive(Debug)]
struct Line {
    console: Arc<Console>,
    /// Number of bytes that the guest has written.
    written: Arc<AtomicU64>,
}

impl Line {
    fn new(console: Arc<Console>) -> (Self, Arc<AtomicU64>) {
        let written = Arc::<AtomicU64>::default();
        let line = Self {
            console,
            written: written.clone(),
        };
        (line, written)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.console.output(bytes);
        self.written
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The live device.
#[derive(Debug)]
pub(crate) struct SerialPort {
    inner: Mutex<Inner>,
    written: Arc<AtomicU64>,
}

struct Inner {
    uart: Serial<Irq, NoEvents, Line>,
    pending: VecDeque<u8>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Moves waiting input into the device as far as there is space.
    fn feed(&mut self) {
        while !self.pending.is_empty() && self.uart.fifo_capacity() > 0 {
            let (front, _) = self.pending.as_slices();
            match self.uart.enqueue_raw_bytes(front) {
                // In loopback mode the line is disconnected.
                Ok(0) | Err(_) => return,
                Ok(count) => drop(self.pending.drain(..count)),
            }
        }
    }
}

impl Counted for SerialPort {
    fn count(&self, metrics: &mut Metrics) {
        let written = self.written.load(Ordering::Relaxed);
        metrics.counter(
            "serial_written_bytes_total",
            "Bytes that the guest wrote to its serial port.",
            &[(&[], written)],
        );
    }
}

impl SerialPort {
    pub(crate) fn new(irq: EventFd, console: Arc<Console>) -> Self {
        let (line, written) = Line::new(console);
        let uart = Serial::new(Irq(irq), line);
        Self {
            inner: Mutex::new(Inner {
                uart,
                pending: VecDeque::new(),
            }),
            written,
        }
    }

    /// Restores a port. A pending interrupt is raised again.
    pub(crate) fn from_state(
        state: &SerialStateV1,
        irq: EventFd,
        console: Arc<Console>,
    ) -> Result<Self, SerialStateError> {
        let saved = SerialState {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer.clone(),
        };
        let (line, written) = Line::new(console);
        let uart =
            Serial::from_state(&saved, Irq(irq), NoEvents, line).map_err(|_| SerialStateError)?;
        let pending = state.pending_input.iter().copied().collect();
        Ok(Self {
            inner: Mutex::new(Inner { uart, pending }),
            written,
        })
    }

    pub(crate) fn state(&self) -> SerialStateV1 {
        let inner = self.lock();
        let state = inner.uart.state();
        SerialStateV1 {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
            pending_input: inner.pending.iter().copied().collect(),
        }
    }

    /// Resets to the power-on state: the guest's setup and its unread input are lost.
    pub(crate) fn reset(&self) {
        let mut inner = self.lock();
        inner.pending.clear();
        // The first of these selects the data register, whatever the guest has set up.
        for (offset, value) in register::AT_RESET {
            // This raises no interrupt: they are disabled.
            let _ = inner.uart.write(offset, value);
        }
        while inner.uart.read(register::LINE_STATUS) & register::DATA_READY != 0 {
            inner.uart.read(register::DATA);
        }
    }

    /// Accepts input from the console.
    pub(crate) fn input(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        let room = MAX_PENDING_INPUT - inner.pending.len().min(MAX_PENDING_INPUT);
        inner.pending.extend(bytes.iter().take(room));
        inner.feed();
    }

    pub(super) fn read(&self, offset: u8) -> u8 {
        let mut inner = self.lock();
        let value = inner.uart.read(offset);
        inner.feed();
        value
    }

    pub(super) fn write(&self, offset: u8, value: u8) {
        // Only the interrupt can fail, and the guest cannot be notified of that.
        let _ = self.lock().uart.write(offset, value);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    const DATA: u8 = 0;
    const INTERRUPT_ENABLE: u8 = 1;
    const SCRATCH: u8 = 7;

    fn irq() -> EventFd {
        EventFd::new(EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn input_beyond_the_fifo_waits_and_arrives_in_order() {
        let port = SerialPort::new(irq(), Arc::new(Console::buffer()));
        let sent: Vec<u8> = (0..200).collect();
        port.input(&sent);
        let got: Vec<u8> = sent.iter().map(|_| port.read(DATA)).collect();
        assert_eq!(got, sent);
    }

    #[test]
    fn a_restored_port_has_the_state_of_the_saved_one() {
        let port = SerialPort::new(irq(), Arc::new(Console::buffer()));
        port.write(INTERRUPT_ENABLE, 1);
        port.write(SCRATCH, 0xa5);
        port.input(&[7; 100]);
        let state = port.state();
        assert_eq!(state.in_buffer.len() + state.pending_input.len(), 100);

        let line = irq();
        let console = Arc::new(Console::buffer());
        let restored = SerialPort::from_state(&state, line.try_clone().unwrap(), console).unwrap();
        assert_eq!(restored.state(), state);
        assert_eq!(restored.read(SCRATCH), 0xa5);
        assert!(
            line.read().is_ok(),
            "the interrupt of the waiting input was lost"
        );
    }

    #[test]
    fn a_port_that_was_reset_is_like_a_new_one() {
        let port = || SerialPort::new(irq(), Arc::new(Console::buffer()));
        let (used, new) = (port(), port().state());
        used.write(INTERRUPT_ENABLE, 1);
        used.write(SCRATCH, 0xa5);
        used.input(&[7; 100]);
        used.write(3, 0x80);
        used.write(DATA, 1);
        assert_ne!(used.state(), new);
        used.reset();
        assert_eq!(used.state(), new);
    }

    #[test]
    fn a_state_that_cannot_be_is_refused() {
        let port = SerialPort::new(irq(), Arc::new(Console::buffer()));
        let state = SerialStateV1 {
            in_buffer: vec![0; 1000],
            ..port.state()
        };
        assert!(SerialPort::from_state(&state, irq(), Arc::new(Console::buffer())).is_err());
    }

    #[test]
    fn output_reaches_the_console() {
        let console = Arc::new(Console::buffer());
        let port = SerialPort::new(irq(), console.clone());
        b"hello".iter().for_each(|&byte| port.write(DATA, byte));
        assert_eq!(console.unsent(), b"hello");
    }

    #[test]
    fn only_com1_is_there() {
        assert_eq!(offset(0x3f8), Some(0));
        assert_eq!(offset(0x3ff), Some(7));
        assert_eq!(offset(0x3f7), None);
        assert_eq!(offset(0x400), None);
    }
}
