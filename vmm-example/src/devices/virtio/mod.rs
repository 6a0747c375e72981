//! Virtio devices, over virtio-mmio: the guest finds them through ACPI.
//!
//! | module | content |
//! |---|---|
//! | `spec`, `open` | the requested devices, and what they need of the host |
//! | `bus`, `live`, `worker`, `wake` | the devices of a machine, with a thread each, and what wakes it |
//! | `stage` | devices working and stopped, and the transitions |
//! | `slot`, `aml` | the place of a device, and its description for the guest |
//! | `prepared_slot` | what is set up in advance for a device: events in KVM, a thread |
//! | `mmio`, `interrupt`, `ring` | the transport between driver and device |
//! | `device` | the interface of all devices |
//! | `block`, `net`, `console`, `rng`, `vsock` | the devices |
//! | `rest` | a device in a lifeboat, which has none of these |
//! | `needs` | what a guest has negotiated with its devices, for another binary to check |
//! | `state` | the state that crosses an update |
//!
//! Nothing blocks while holding a device's lock: `stage` describes how devices are stopped before
//! an update stops the vCPUs. Requests that are still in a ring are in guest memory, and stay
//! there. When the guest runs again, each device checks all its rings and raises its interrupt
//! once, so neither a notification nor an interrupt can be lost.
//!
//! Another process of this host gets a device's open descriptors; in another kernel they are opened
//! again. Sockets in the file system stay as long as this process owns them.

pub(crate) mod aml;
mod block;
mod bus;
mod console;
mod counters;
mod device;
mod device_state;
mod fd_names;
mod interrupt;
mod kind;
mod live;
mod mmio;
pub(crate) mod needs;
mod net;
mod open;
mod prepared_slot;
mod rest;
mod ring;
mod rng;
pub(crate) mod slot;
pub(crate) mod spec;
pub(crate) mod stage;
pub(crate) mod state;
mod vsock;
mod wake;
mod worker;

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use thiserror::Error;

use crate::kvm::KvmError;

pub(crate) use bus::VirtioBus;
pub(crate) use counters::DeviceCounts;
pub(crate) use open::{Opened, at_rest, catch_up, inherit, open, reopen, reserve_io};
pub(crate) use prepared_slot::PreparedSlot;
pub(crate) use slot::SlotLayout;

/// Why a machine cannot have its devices.
#[derive(Debug, Error)]
pub(crate) enum VirtioError {
    #[error("A guest can have at most {} devices, not {count}", slot::MAX_DEVICES)]
    TooMany { count: usize },
    #[error("Cannot open {what}")]
    Open { what: String, source: io::Error },
    #[error("A device has slot {slot}, which is in use or does not exist")]
    BadSlot { slot: u8 },
    #[error("The device in slot {slot} does not have the announced rings")]
    OtherRings { slot: u8 },
    #[error("The guest's devices are not those that were announced")]
    OtherDevices,
    #[error("The guest's {device} device cannot continue from its state")]
    CatchUp { device: String, source: io::Error },
    #[error("No device of the guest takes fd={fd}")]
    NotWanted { fd: RawFd },
    #[error("{device} cannot be restored")]
    Transport {
        device: String,
        source: mmio::TransportError,
    },
    #[error("Cannot hand over the descriptors of {device}")]
    Lend { device: String, source: io::Error },
    #[error("Cannot sync {device}")]
    Sync { device: String, source: io::Error },
    #[error("Cannot start {device}")]
    Start { device: String, source: io::Error },
    #[error(
        "{device} has {requests} requests in flight that the host has not carried out within {limit:?}"
    )]
    Busy {
        device: String,
        requests: usize,
        limit: Duration,
    },
    #[error("Cannot create an event of a device")]
    Event(#[source] io::Error),
    #[error("Cannot create the event loop of a device")]
    Loop(#[source] event_manager::Error),
    #[error("Cannot start the thread of a device")]
    Spawn(#[source] io::Error),
    #[error("Cannot connect a device to the guest")]
    Kvm(#[from] KvmError),
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
