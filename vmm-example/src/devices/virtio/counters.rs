//! What a device has done since this process has it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counts, from the device's thread; read by anyone.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    interrupts: AtomicU64,
}

/// The counts of a device at some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceCounts {
    /// The device, such as `blk0`.
    pub(crate) device: String,
    /// What carries out its requests, if there is a choice: `io_uring` or `thread`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) io: Option<String>,
    /// Chains of buffers that were used.
    pub(crate) requests: u64,
    /// Bytes that went in or out, headers apart.
    pub(crate) bytes: u64,
    /// Requests that failed, packets that were dropped, and rings that were broken.
    pub(crate) errors: u64,
    /// Interrupts raised.
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
