//! What every device has, whatever transport it is on.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use vmm_fdbox::Finding;

use super::device_state::DeviceStateV1;
use super::kind::Kind;
use super::ring::{RingError, Rings};

/// A device. Its rings and registers are the transport's.
///
/// All methods are called with the device's lock held: from its own thread, from a vCPU
/// thread that accesses its registers, or by who has parked it. A vCPU waits for that lock, so
/// **none of them waits for the host**: what takes longer is in flight, and is answered by
/// [`settle`](Self::settle) when [`source`](Self::source) says that it is over. Before a guest
/// stops, its devices take no more requests and what is in flight comes to its end: see
/// [`Stage`](super::stage::Stage).
pub(crate) trait Device: Debug + Send {
    fn kind(&self) -> Kind;

    /// Features beside those of the transport.
    fn features(&self) -> u64;

    /// The most entries of each of its rings.
    fn queue_sizes(&self) -> &'static [u16];

    /// The configuration space as the guest reads it.
    fn config(&self) -> Vec<u8>;

    /// The driver is ready, with these features; or it was, in the host before this one.
    fn activate(&mut self, _features: u64) {}

    /// The driver starts anew.
    fn reset(&mut self) {}

    /// Starts what threads it has, before it works. The process has given up by then what it does not
    /// need.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The guest has put something into a ring.
    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError>;

    /// What to watch for input from the host. Watched for edges.
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

    /// Answers the requests that are over and takes no new ones. If the answers are not wanted, the
    /// guest's ring is broken or was reset.
    fn settle(&mut self, _rings: &mut Rings<'_>, _wanted: bool) -> Result<(), RingError> {
        Ok(())
    }

    /// Requests that were taken and are not answered.
    fn in_flight(&self) -> usize {
        0
    }

    /// What carries out its requests, if there is a choice.
    fn io(&self) -> Option<&'static str> {
        None
    }

    /// A file with what the guest has written and the host would lose with its kernel.
    fn unsynced(&self) -> io::Result<Option<File>> {
        Ok(None)
    }

    /// What it has open, by name, for another process of this host. The device is parked and
    /// may go on with it.
    fn lend(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        Ok(Vec::new())
    }

    /// What must cross an update. The device is parked.
    fn state(&self) -> DeviceStateV1;

    /// What an operator should know, or change, before an update. `carried`: what the device
    /// has open goes along, to another process of this host.
    fn findings(&self, _carried: bool) -> Vec<Finding> {
        Vec::new()
    }
}

/// The bits of some features, given by their numbers.
pub(super) const fn bits(features: &[u32]) -> u64 {
    let mut bits = 0;
    let mut at = 0;
    while at < features.len() {
        bits |= 1 << features[at];
        at += 1;
    }
    bits
}
