//! All clocks of a kernel at the same moment, and what another kernel's clocks should be by them.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// How often clocks are read for one sample.
const READINGS: usize = 20;

pub fn now_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// All clocks at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub tsc: u64,
    pub monotonic_ns: u64,
    pub realtime_ns: u64,
}

impl Sample {
    /// Of several readings the one that took the shortest time.
    pub fn now() -> Self {
        let read = |_| {
            let begun = crate::tsc();
            let monotonic_ns = now_ns(ClockId::Monotonic);
            let tsc = crate::tsc();
            let realtime_ns = now_ns(ClockId::Realtime);
            let sample = Self {
                tsc,
                monotonic_ns,
                realtime_ns,
            };
            (crate::tsc().saturating_sub(begun), sample)
        };
        let shortest =
            (1..READINGS).map(read).fold(
                read(0),
                |best, next| {
                    if next.0 < best.0 { next } else { best }
                },
            );
        shortest.1
    }

    /// The same moment by the TSC of its host: KVM adds `offset` to that for the guest.
    pub fn by_host(self, offset: u64) -> Self {
        Self {
            tsc: self.tsc.wrapping_sub(offset),
            ..self
        }
    }

    /// The same with clocks that have not lost that much.
    pub fn without_loss(self, lost: Duration) -> Self {
        let lost = u64::try_from(lost.as_nanos()).unwrap_or(u64::MAX);
        Self {
            monotonic_ns: self.monotonic_ns.saturating_add(lost),
            realtime_ns: self.realtime_ns.saturating_add(lost),
            ..self
        }
    }

    /// By how much each clock went on more, or less, than the TSC did since `before`.
    pub fn drift(&self, before: &Self, tsc_khz: u64) -> [Duration; 2] {
        let ticks = self.tsc.saturating_sub(before.tsc);
        let passed = u128::from(ticks) * 1_000_000 / u128::from(tsc_khz.max(1));
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let drift =
            |now: u64, then: u64| Duration::from_nanos(now.abs_diff(then.saturating_add(passed)));
        [
            drift(self.monotonic_ns, before.monotonic_ns),
            drift(self.realtime_ns, before.realtime_ns),
        ]
    }
}

/// What a kernel's clocks lost while it booted, by its own log. Until it has a clocksource that it trusts it counts timer
/// interrupts, and those that come late are lost. Its scheduler's clock loses nothing, and it logs both at the same moment.
pub fn lost_at_boot(log: &str) -> Option<Duration> {
    let (_, rest) = log.split_once("sched_clock: Marking stable (")?;
    let (by_timer, rest) = rest.split_once(',')?;
    let (_, rest) = rest.split_once("->(")?;
    let (of_scheduler, _) = rest.split_once(',')?;
    let lost = of_scheduler.parse::<u64>().ok()?;
    lost.checked_sub(by_timer.parse().ok()?)
        .map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_lost_is_in_its_log() {
        let line = "sched_clock: Marking stable (1416296847, 60431974)->(2111395323, -634666502)";
        let lost = Duration::from_nanos(695_098_476);
        assert_eq!(lost_at_boot(line), Some(lost));
        assert_eq!(
            lost_at_boot(&format!("[    1.479454] {line}\n")),
            Some(lost)
        );
        for other in [
            "",
            "sched_clock: Marking stable (1, 2)",
            "sched_clock: Marking stable (2, 0)->(1, 0)",
        ] {
            assert_eq!(lost_at_boot(other), None, "{other}");
        }
    }

    #[test]
    fn a_clock_that_stood_still_or_jumped_has_drifted() {
        let before = Sample {
            tsc: 500_000,
            monotonic_ns: 7_000_000,
            realtime_ns: 1_000_000_000,
        };
        // Three milliseconds at 2 GHz; the guest's TSC is 100 ticks behind.
        let after = Sample {
            tsc: 6_499_900,
            monotonic_ns: 7_000_000,
            realtime_ns: 1_008_000_000,
        };
        let after = after.by_host(100_u64.wrapping_neg());
        let [monotonic, realtime] = after.drift(&before, 2_000_000);
        assert_eq!(monotonic, Duration::from_millis(3));
        assert_eq!(realtime, Duration::from_millis(5));
    }

    #[test]
    fn a_sample_is_of_one_moment() {
        let (first, second) = (Sample::now(), Sample::now());
        assert!(second.tsc > first.tsc);
        let passed = second.monotonic_ns - first.monotonic_ns;
        assert!(second.realtime_ns.abs_diff(first.realtime_ns + passed) < 1_000_000_000);
    }
}
