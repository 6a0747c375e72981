//! Continuous work, counted: the loss of it shows how much an update takes from a guest.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;

use fdbox_lab::witness::{WitnessEvent, pattern};
use rustix::thread::ClockId;

use fdbox_lab::clocks::now_ns;

/// The memory that each CPU writes over and over.
const WORDS: usize = (16 << 20) / 8;
/// One unit of work: a page written.
const UNIT: usize = 4096 / 8;

#[derive(Debug, Default)]
pub(crate) struct Work {
    started: OnceLock<()>,
    units: AtomicU64,
}

impl Work {
    /// A worker for each CPU, unless they are running already.
    pub(crate) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, cpus: usize) {
        self.started.get_or_init(|| {
            for cpu in 0..cpus {
                scope.spawn(move || self.run(cpu as u64));
            }
        });
    }

    pub(crate) fn done(&self) -> WitnessEvent {
        WitnessEvent::Work {
            units: self.units.load(Ordering::Relaxed),
            at_ns: now_ns(ClockId::Monotonic),
        }
    }

    fn run(&self, seed: u64) {
        let mut words = vec![0_u64; WORDS];
        for round in 0.. {
            for (unit, words) in words.chunks_mut(UNIT).enumerate() {
                for (index, word) in words.iter_mut().enumerate() {
                    *word = pattern(seed, unit as u64, round, index as u64);
                }
                std::hint::black_box(words);
                self.units.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
