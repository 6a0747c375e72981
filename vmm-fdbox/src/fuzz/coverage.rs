//! The compiler's coverage counters, if the program was built with them: a byte for each edge of each function.

#![allow(
    unsafe_code,
    reason = "the counters are memory that the compiler's code announces by its address"
)]

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// All counters of this process.
static COUNTERS: Mutex<Vec<&'static [AtomicU8]>> = Mutex::new(Vec::new());

/// Called once for each unit of compiled code, before `main`.
///
/// # Safety
/// The caller, which only the compiler generates, passes the two ends of an array that lives as long as the process,
/// and that nothing but increments of single bytes accesses.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(
    start: *const AtomicU8,
    stop: *const AtomicU8,
) {
    let len = stop.addr().saturating_sub(start.addr());
    if start.is_null() || len == 0 {
        return;
    }
    // SAFETY: see above.
    let counters = unsafe { std::slice::from_raw_parts(start, len) };
    let mut all = COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
    if all.iter().all(|other| other.as_ptr() != start) {
        all.push(counters);
    }
}

/// What the inputs so far have covered.
pub(super) struct Coverage {
    counters: Vec<&'static [AtomicU8]>,
    /// For each counter, the classes of its values.
    seen: Vec<Vec<u8>>,
}

impl Coverage {
    pub(super) fn new() -> Self {
        let counters = COUNTERS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let seen = counters.iter().map(|part| vec![0; part.len()]).collect();
        Self { counters, seen }
    }

    pub(super) fn counters(&self) -> usize {
        self.counters.iter().map(|part| part.len()).sum()
    }

    /// How many counters have counted something.
    pub(super) fn covered(&self) -> usize {
        let covered = |part: &Vec<u8>| part.iter().filter(|seen| **seen != 0).count();
        self.seen.iter().map(covered).sum()
    }

    pub(super) fn begin(&self) {
        for part in &self.counters {
            let (first, words, last) = words(part);
            first
                .iter()
                .chain(last)
                .for_each(|byte| byte.store(0, Ordering::Relaxed));
            words
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    /// Whether something was reached that had not been before, or more often.
    pub(super) fn end(&mut self) -> bool {
        let mut is_new = false;
        for (part, seen) in self.counters.iter().zip(&mut self.seen) {
            let (first, words, last) = words(part);
            let mut note = |at: usize, count: u8| {
                let class = class(count);
                is_new |= class & !seen[at] != 0;
                seen[at] |= class;
            };
            let mut at = 0;
            for byte in first {
                note(at, byte.load(Ordering::Relaxed));
                at += 1;
            }
            for word in words {
                let word = word.load(Ordering::Relaxed);
                if word != 0 {
                    let counts = (at..).zip(word.to_ne_bytes());
                    counts.for_each(|(at, count)| note(at, count));
                }
                at += 8;
            }
            for byte in last {
                note(at, byte.load(Ordering::Relaxed));
                at += 1;
            }
        }
        is_new
    }
}

/// The counters as words, as far as they are aligned: most of them are 0.
fn words(counters: &[AtomicU8]) -> (&[AtomicU8], &[AtomicU64], &[AtomicU8]) {
    // SAFETY: eight atomic bytes are as good as one atomic word: both are plain memory of any value, which is only
    // accessed by atomic operations here. Mixed sizes may at worst see a count that is about to change.
    unsafe { counters.align_to() }
}

/// How often: a bit for each order of magnitude.
fn class(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}
