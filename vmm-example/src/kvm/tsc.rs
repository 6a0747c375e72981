//! The host's time stamp counter.

use std::num::NonZeroU32;

use vmm_fdbox::Clock;

/// The counter, now.
pub(crate) fn read() -> u64 {
    Clock::tsc(NonZeroU32::MIN).now()
}
