//! The interface of all devices, independent of the transport.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use vmm_fdbox::Finding;

use super::device_state::DeviceStateV1;
use super::kind::Kind;
use super::ring::{RingError, Rings};

/// A device. Its rings and registers belong to the transport.
///
/// All methods are called with the device's lock held: from its own thread, from a vCPU thread that
/// accesses its registers, or by whoever has parked it. A vCPU waits for that lock, so **no method
/// waits for the host**: anything that takes longer is in flight, and is answered by
/// [`settle`](Self::settle) when [`source`](Self::source) reports that it is finished. Before a
/// guest stops, devices that [take time](Self::takes_time) take no more requests and finish those
/// in flight: see
/// [`Stage`](super::stage::Stage).
pub(crate) trait Device: Debug + Send {
    fn kind(&self) -> Kind;

    /// Features besides those of the transport.
    fn features(&self) -> u64;

    /// The maximum number of entries of each of its rings.
    fn queue_sizes(&self) -> &'static [u16];

    /// The configuration space as the guest reads it.
    fn config(&self) -> Vec<u8>;

    /// The driver is ready, with these features, either now or already in the previous host.
    fn activate(&mut self, _features: u64) {}

    /// The driver starts again.
    fn reset(&mut self) {}

    /// Starts its threads, if any, before it works. The process has entered its sandbox by then.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The guest has put something into a ring.
    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError>;

    /// The descriptor to watch for input from the host, edge-triggered.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// There is input from the host.
    fn serve_source(&mut self, _rings: &mut Rings<'_>) -> Result<(), RingError> {
        Ok(())
    }

    /// Called once before a restored device runs, if its driver is ready.
    fn serve_restored(&mut self, _rings: &mut Rings<'_>) -> Result<(), RingError> {
        Ok(())
    }

    /// Answers finished requests and takes no new ones. If the answers are not wanted, the guest's
    /// ring is broken or was reset.
    fn settle(&mut self, _rings: &mut Rings<'_>, _wanted: bool) -> Result<(), RingError> {
        Ok(())
    }

    /// Whether its requests take time, so that some can be in flight. A device that answers each at
    /// once works until the vCPUs have stopped.
    fn takes_time(&self) -> bool {
        false
    }

    /// Number of requests that were taken and not answered yet.
    fn in_flight(&self) -> usize {
        0
    }

    /// What carries out its requests, if there is a choice.
    fn io(&self) -> Option<&'static str> {
        None
    }

    /// A file with data that the guest has written and the host would lose with its kernel.
    fn unsynced(&self) -> io::Result<Option<File>> {
        Ok(None)
    }

    /// Its open descriptors, by name, for another process of this host. The device is parked and
    /// may still continue.
    fn lend(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        Ok(Vec::new())
    }

    /// The state that must cross an update. The device is parked.
    fn state(&self) -> DeviceStateV1;

    /// Takes over the state of the same device, which has worked elsewhere since this one was
    /// opened. The device is parked.
    fn catch_up(&mut self, _state: &DeviceStateV1) -> io::Result<()> {
        Ok(())
    }

    /// Findings for an operator before an update. `carried`: the device's open descriptors are
    /// handed over to another process of this host.
    fn findings(&self, _carried: bool) -> Vec<Finding> {
        Vec::new()
    }
}

/// The bits of features given by their numbers.
pub(super) const fn bits(features: &[u32]) -> u64 {
    let mut bits = 0;
    let mut at = 0;
    while at < features.len() {
        bits |= 1 << features[at];
        at += 1;
    }
    bits
}
