//! What a device has done since this process took it over.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counters, incremented by the device's thread and read by anyone.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    interrupts: AtomicU64,
}

/// The counters of a device at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceCounts {
    /// The device, such as `blk0`.
    pub(crate) device: String,
    /// What carries out its requests, if there is a choice: `io_uring` or `thread`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) io: Option<String>,
    /// Number of buffer chains used.
    pub(crate) requests: u64,
    /// Number of bytes in and out, without headers.
    pub(crate) bytes: u64,
    /// Failed requests, dropped packets and broken rings.
    pub(crate) errors: u64,
    /// Number of interrupts raised.
    pub(crate) interrupts: u64,
}

impl Counters {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, device: &str) -> DeviceCounts {
        DeviceCounts {
            device: device.into(),
            io: None,
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            interrupts: self.interrupts.load(Ordering::Relaxed),
        }
    }
}
