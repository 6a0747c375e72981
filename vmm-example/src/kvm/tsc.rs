//! The host's time stamp counter.

use std::num::NonZeroU32;

use vmm_fdbox::Clock;

/// The current value of the counter.
pub(crate) fn read() -> u64 {
    Clock::tsc(NonZeroU32::MIN).now()
}
