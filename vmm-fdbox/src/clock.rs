//! A clock that a kexec does not stop: the CPU's cycle counter.

use std::num::NonZeroU32;
use std::time::Duration;

use rustix::time::ClockId;

use crate::sys;

/// The cycle counter and its frequency.
///
/// On x86-64 this is the TSC, which a kexec neither stops nor resets. Take the frequency from KVM
/// (`KVM_GET_TSC_KHZ`), which knows it more accurately than [`measure`](Self::measure) can.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    khz: NonZeroU32,
    read: fn() -> u64,
}

impl Clock {
    /// The CPU's counter, with a frequency of `khz` kHz.
    #[must_use]
    pub fn tsc(khz: NonZeroU32) -> Self {
        Self {
            khz,
            read: sys::ticks,
        }
    }

    /// The CPU's counter, with its frequency measured against the kernel's clock while this call
    /// sleeps for `during`.
    #[must_use]
    pub fn measure(during: Duration) -> Self {
        let ns_of = || nanoseconds(ClockId::MonotonicRaw);
        let (ns, ticks) = (ns_of(), sys::ticks());
        std::thread::sleep(during.max(Duration::from_millis(1)));
        let (ns, ticks) = (
            ns_of().saturating_sub(ns),
            sys::ticks().saturating_sub(ticks),
        );
        let khz = u128::from(ticks) * 1_000_000 / u128::from(ns.max(1));
        let khz = u32::try_from(khz).ok().and_then(NonZeroU32::new);
        Self::tsc(khz.unwrap_or(NonZeroU32::MIN))
    }

    /// A counter supplied by the caller, for tests.
    #[must_use]
    pub fn with_source(khz: NonZeroU32, read: fn() -> u64) -> Self {
        Self { khz, read }
    }

    /// The frequency in kHz.
    #[must_use]
    pub fn khz(&self) -> NonZeroU32 {
        self.khz
    }

    /// The current value of the counter.
    #[must_use]
    pub fn now(&self) -> u64 {
        (self.read)()
    }

    /// Converts ticks to nanoseconds.
    #[must_use]
    pub fn to_ns(&self, ticks: u64) -> u64 {
        ticks_to_ns(ticks, self.khz)
    }

    /// The counter's value when this kernel's `CLOCK_BOOTTIME` was at `ns`.
    ///
    /// 0 is the start of the kernel's clock, early in its boot: the time between the jump and that
    /// point is shutdown, purgatory and decompression.
    #[must_use]
    pub fn at_boottime(&self, ns: u64) -> u64 {
        let (now, boottime) = self.now_and_boottime();
        let ticks = u128::from(boottime.saturating_sub(ns)) * u128::from(self.khz.get());
        now.saturating_sub(u64::try_from(ticks / 1_000_000).unwrap_or(u64::MAX))
    }

    /// The counter and `CLOCK_BOOTTIME` in nanoseconds at the same moment: the closest of several
    /// tries, because a try can be interrupted between the two.
    fn now_and_boottime(&self) -> (u64, u64) {
        let read = || {
            let before = self.now();
            let boottime = nanoseconds(ClockId::Boottime);
            (self.now().saturating_sub(before), before, boottime)
        };
        let (width, before, boottime) = (0..3).map(|_| read()).min().unwrap_or_else(read);
        (before.saturating_add(width / 2), boottime)
    }
}

pub(crate) fn ticks_to_ns(ticks: u64, khz: NonZeroU32) -> u64 {
    let ns = u128::from(ticks) * 1_000_000 / u128::from(khz.get());
    u64::try_from(ns).unwrap_or(u64::MAX)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds_without_overflow() {
        let khz = NonZeroU32::new(2_500_000).unwrap();
        assert_eq!(ticks_to_ns(2_500_000_000, khz), 1_000_000_000);
        assert_eq!(ticks_to_ns(u64::MAX, NonZeroU32::MIN), u64::MAX);
    }

    #[test]
    fn the_counter_measures_a_sleep() {
        let clock = Clock::measure(Duration::from_millis(20));
        let start = clock.now();
        std::thread::sleep(Duration::from_millis(20));
        let ns = clock.to_ns(clock.now() - start);
        assert!((15_000_000..2_000_000_000).contains(&ns), "{ns}");
    }

    #[test]
    fn both_clocks_tell_one_moment() {
        let clock = Clock::measure(Duration::from_millis(20));
        let boottime = nanoseconds(ClockId::Boottime);
        let then = clock.at_boottime(boottime);
        let ago = clock.to_ns(clock.now().saturating_sub(then));
        assert!(ago < 2_000_000_000, "{ago}");
    }

    #[test]
    fn a_counter_younger_than_the_kernel_starts_at_0() {
        let clock = Clock::with_source(NonZeroU32::MAX, || 5);
        assert_eq!(clock.at_boottime(0), 0);
        assert_eq!(clock.at_boottime(u64::MAX), 5);
    }
}
