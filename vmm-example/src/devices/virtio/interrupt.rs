//! A device's interrupt: the reason, and the line.
//!
//! The guest reads and acknowledges the reason in its interrupt handler. That takes no lock, so a
//! vCPU never waits there for a busy device.

use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

use super::counters::Counters;

/// The reason for an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Reason {
    /// The device has used buffers.
    Used = VIRTIO_MMIO_INT_VRING,
    /// The configuration or the status has changed.
    Config = VIRTIO_MMIO_INT_CONFIG,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Interrupt {
    status: AtomicU32,
    line: EventFd,
    pub(super) counters: Counters,
}

impl Interrupt {
    pub(super) fn new(line: EventFd, status: u32) -> Self {
        Self {
            status: AtomicU32::new(status),
            line,
            counters: Counters::default(),
        }
    }

    pub(super) fn raise(&self, reason: Reason) {
        self.status.fetch_or(reason as u32, Ordering::SeqCst);
        self.counters.interrupt();
        // If the counter is full, the line has already been raised.
        let _ = self.line.write(1);
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(super) fn acknowledge(&self, reasons: u32) {
        self.status.fetch_and(!reasons, Ordering::SeqCst);
    }

    pub(super) fn clear(&self) {
        self.status.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[test]
    fn reasons_stay_until_they_are_acknowledged() {
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupt = Interrupt::new(line.try_clone().unwrap(), 0);
        interrupt.raise(Reason::Used);
        interrupt.raise(Reason::Config);
        assert_eq!((interrupt.status(), line.read().unwrap()), (3, 2));
        interrupt.acknowledge(1);
        assert_eq!(interrupt.status(), 2);
    }
}
