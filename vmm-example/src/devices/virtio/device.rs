//! What every device has, whatever transport it is on.

use std::fmt::Debug;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use vmm_fdbox::Finding;

use super::device_state::DeviceStateV1;
use super::kind::Kind;
use super::ring::{RingError, Rings};

/// A device. Its rings and registers are the transport's.
///
/// All methods are called with the device's lock held: from its own thread, from a vCPU
/// thread that accesses its registers, or by who has parked it.
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

    /// Makes safe what the host holds for the guest and would lose with its kernel. The device
    /// is parked, in the blackout.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
