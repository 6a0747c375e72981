//! Keeps guest RAM out of core dumps of the VMM.

#![allow(unsafe_code, reason = "this file is the thin layer around madvise")]

use rustix::mm::{Advice, madvise};
use vm_memory::GuestRegionMmap;

/// Excludes a region from core dumps. If the kernel does not support this, the guest runs anyway.
pub(super) fn leave_out(region: &GuestRegionMmap) {
    let (addr, len) = (region.as_ptr(), region.size());
    // SAFETY: the range is mapped, all of it by `region`, which outlives the call; this advice
    // affects dumps only, neither content nor mapping.
    let _ = unsafe { madvise(addr.cast(), len, Advice::LinuxDontDump) };
}
