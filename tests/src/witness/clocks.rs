//! Watches every clock on every CPU: how long it stood still, and whether it ever went back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fdbox_lab::clocks::now_ns;
use rustix::thread::{ClockId, CpuSet};

use crate::lock;
use crate::memory::Memory;

/// Pause between two samples on one CPU: it shows that timers work, and leaves the CPU to others.
const PAUSE: Duration = Duration::from_micros(500);
/// The longest such pause of a guest alone, on a host so slow that a sample takes that long.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// The share of the CPU for others, as a multiple of the time a sample takes.
const SHARE_OF_OTHERS: u32 = 3;
/// The time over which the TSC's frequency is measured.
const CALIBRATION: Duration = Duration::from_millis(250);
/// How many steps back are described.
const EXAMPLES: usize = 8;

#[derive(Debug)]
pub(crate) struct Clocks {
    /// By CPU.
    watches: Vec<Watched>,
    /// The latest value seen on any CPU.
    monotonic: AtomicU64,
    boottime: AtomicU64,
    tsc: AtomicU64,
    tsc_hz: f64,
    gap: Mutex<Gap>,
    backwards: Mutex<Vec<String>>,
}

/// The samples of one CPU.
#[derive(Debug, Default)]
struct Watched {
    samples: AtomicU64,
    /// CLOCK_MONOTONIC at the last sample; 0 before the first.
    last_ns: AtomicU64,
}

/// The longest pause between two samples on one CPU.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gap {
    pub(crate) monotonic_ns: u64,
    pub(crate) tsc: u64,
    pub(crate) ended_ns: u64,
    /// Counts the resets: a sample from before the last reset is not part of a gap.
    resets: u64,
    /// CLOCK_MONOTONIC at the last reset.
    reset_ns: u64,
}

/// The pause after a sample that came `since` the previous one, of which `slept` was spent asleep.
/// Others get several times the time that a wakeup and a sample take: on a slow host they would
/// otherwise never run, because this thread has priority over them.
fn pause_after(since: Duration, slept: Duration, pace: u32) -> Duration {
    let worked = since.saturating_sub(slept);
    let pause = (worked * SHARE_OF_OTHERS).min(LONGEST_PAUSE * pace.isqrt());
    pause.max(PAUSE * pace)
}

impl Clocks {
    pub(crate) fn new(cpus: usize) -> Self {
        let (start_ns, start_tsc) = (now_ns(ClockId::Monotonic), fdbox_lab::tsc());
        std::thread::sleep(CALIBRATION);
        let ns = now_ns(ClockId::Monotonic) - start_ns;
        let tsc_hz = (fdbox_lab::tsc() - start_tsc) as f64 * 1e9 / ns as f64;
        Self {
            watches: (0..cpus).map(|_| Watched::default()).collect(),
            monotonic: AtomicU64::new(0),
            boottime: AtomicU64::new(0),
            tsc: AtomicU64::new(0),
            tsc_hz,
            gap: Mutex::default(),
            backwards: Mutex::default(),
        }
    }

    /// Samples the clocks on `cpu` forever, rewriting a page of `memory` each time; slower than
    /// usual by the factor `pace`.
    pub(crate) fn watch(&self, cpu: usize, memory: &Mutex<Memory>, pace: u32) {
        let mut only_this = CpuSet::new();
        only_this.set(cpu);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &only_this) {
            self.note(format!("CPU {cpu} cannot be watched: {error}"));
        }
        // A gap must be caused by the host, not by another thread of the guest.
        let priority = libc::sched_param { sched_priority: 1 };
        // SAFETY: the parameter is valid for the call; 0 is this thread.
        if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) } != 0 {
            self.note(format!("CPU {cpu} is not watched with priority"));
        }
        let mut last: Option<(u64, u64, u64)> = None;
        let mut pause = PAUSE * pace;
        loop {
            let resets = lock(&self.gap).resets;
            let monotonic = self.sample(cpu, "CLOCK_MONOTONIC", &self.monotonic, || {
                now_ns(ClockId::Monotonic)
            });
            let tsc = self.sample(cpu, "TSC", &self.tsc, fdbox_lab::tsc);
            self.sample(cpu, "CLOCK_BOOTTIME", &self.boottime, boottime_ns);
            if let Some((last_monotonic, last_tsc, last_resets)) = last {
                let mut gap = lock(&self.gap);
                let length = monotonic.saturating_sub(last_monotonic);
                pause = pause_after(Duration::from_nanos(length), pause, pace);
                if last_resets == gap.resets && length > gap.monotonic_ns {
                    gap.monotonic_ns = length;
                    gap.ended_ns = boottime_ns();
                }
                if last_resets == gap.resets {
                    gap.tsc = gap.tsc.max(tsc.saturating_sub(last_tsc));
                }
            }
            last = Some((monotonic, tsc, resets));
            self.watches[cpu].note(monotonic);
            // The check for a report holds the lock for longer than a sample may wait.
            if let Ok(mut memory) = memory.try_lock() {
                memory.rewrite_one();
            }
            std::thread::sleep(pause);
        }
    }

    /// Reads a clock and compares it with the latest value seen on any CPU.
    fn sample(&self, cpu: usize, name: &str, latest: &AtomicU64, read: impl Fn() -> u64) -> u64 {
        let before = latest.load(Ordering::SeqCst);
        let now = read();
        if now < before {
            self.note(format!("{name} on CPU {cpu}: {now} after {before}"));
        }
        latest.fetch_max(now, Ordering::SeqCst);
        now
    }

    fn note(&self, text: String) {
        let mut backwards = lock(&self.backwards);
        if backwards.len() < EXAMPLES {
            backwards.push(text);
        }
    }

    /// The longest gap so far, or the current one of a CPU that no longer takes samples.
    pub(crate) fn gap(&self) -> Gap {
        let now = now_ns(ClockId::Monotonic);
        let mut gap = *lock(&self.gap);
        for watched in &self.watches {
            let last = watched.last_ns.load(Ordering::Relaxed);
            let since = now.saturating_sub(last.max(gap.reset_ns));
            if last > 0 && since > gap.monotonic_ns {
                gap.monotonic_ns = since;
                gap.ended_ns = boottime_ns();
            }
        }
        gap
    }

    pub(crate) fn reset_gap(&self) {
        let mut gap = lock(&self.gap);
        *gap = Gap {
            resets: gap.resets + 1,
            reset_ns: now_ns(ClockId::Monotonic),
            ..Gap::default()
        };
    }

    pub(crate) fn counter(&self) -> u64 {
        self.counters().into_iter().sum()
    }

    pub(crate) fn counters(&self) -> Vec<u64> {
        let samples = |watched: &Watched| watched.samples.load(Ordering::Relaxed);
        self.watches.iter().map(samples).collect()
    }

    pub(crate) fn backwards(&self) -> Vec<String> {
        lock(&self.backwards).clone()
    }

    pub(crate) fn tsc_to_ns(&self, ticks: u64) -> u64 {
        (ticks as f64 * 1e9 / self.tsc_hz) as u64
    }
}

impl Watched {
    fn note(&self, now_ns: u64) {
        self.last_ns.store(now_ns, Ordering::Relaxed);
        self.samples.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn boottime_ns() -> u64 {
    now_ns(ClockId::Boottime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_get_more_time_than_the_watch_takes() {
        let ms = Duration::from_millis;
        // On time: the usual pause.
        assert_eq!(pause_after(PAUSE, PAUSE, 1), PAUSE);
        assert_eq!(pause_after(PAUSE * 4, PAUSE * 4, 4), PAUSE * 4);
        // It took 3 ms longer than the time it slept.
        assert_eq!(pause_after(ms(3) + PAUSE, PAUSE, 1), ms(9));
        // Of four guests, whose pace is 16, each leaves more to the others.
        assert_eq!(pause_after(ms(100), PAUSE, 16), LONGEST_PAUSE * 4);
        // A blackout is not work.
        assert_eq!(pause_after(ms(2000), PAUSE, 1), LONGEST_PAUSE);
    }

    #[test]
    fn a_cpu_that_takes_no_samples_any_more_is_in_a_gap() {
        let clocks = Clocks::new(2);
        let long_ago = now_ns(ClockId::Monotonic) - 1_000_000;
        clocks.watches[0].note(now_ns(ClockId::Monotonic));
        clocks.watches[1].note(long_ago);
        assert_eq!((clocks.counters(), clocks.counter()), (vec![1, 1], 2));
        assert!(clocks.gap().monotonic_ns >= 1_000_000);
        // Time before a reset is not part of a gap.
        let reset = now_ns(ClockId::Monotonic);
        clocks.reset_gap();
        let gap = clocks.gap().monotonic_ns;
        assert!(gap <= now_ns(ClockId::Monotonic) - reset);
    }

    #[test]
    fn a_clock_that_goes_back_is_noted() {
        let clocks = Clocks::new(1);
        let latest = AtomicU64::new(0);
        clocks.sample(0, "X", &latest, || 10);
        clocks.sample(1, "X", &latest, || 10);
        assert!(clocks.backwards().is_empty());
        clocks.sample(1, "X", &latest, || 9);
        assert_eq!(clocks.backwards(), ["X on CPU 1: 9 after 10"]);
    }

    #[test]
    fn the_tsc_is_measured_in_the_right_unit() {
        let clocks = Clocks::new(1);
        let second = clocks.tsc_to_ns(clocks.tsc_hz as u64);
        assert!((999_999_000..=1_000_001_000).contains(&second), "{second}");
        assert!(clocks.tsc_hz > 1e8, "{} Hz", clocks.tsc_hz);
    }
}
