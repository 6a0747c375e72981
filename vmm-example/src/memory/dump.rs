//! Guest RAM stays out of core dumps of the VMM.

#![allow(unsafe_code, reason = "this file is the thin layer around madvise")]

use rustix::mm::{Advice, madvise};
use vm_memory::GuestRegionMmap;

/// Leaves a region out of every core dump. One that a kernel does not leave out runs all the same.
pub(super) fn leave_out(region: &GuestRegionMmap) {
    let (addr, len) = (region.as_ptr(), region.size());
    // SAFETY: the range is mapped, all of it by `region`, which outlives the call; this advice
    // changes what a dump has, and neither content nor mapping.
    let _ = unsafe { madvise(addr.cast(), len, Advice::LinuxDontDump) };
}
