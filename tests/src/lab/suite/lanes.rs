//! Runs hosts side by side.
//!
//! An emulated host of one CPU keeps about one of the machine's busy, and some memory. As many lanes as
//! both allow take one job after the other. A host that wants more than that has the machine to
//! itself, after all the others.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc;

use super::Outcome;

/// The most that a host of the suite takes of the machine's memory, in KiB.
const HOST_KIB: u64 = 6 * 1024 * 1024;
/// More does not make the whole any shorter than its longest job.
const MOST: usize = 8;

/// One host, and what comes of it.
pub(super) struct Job<'a> {
    /// Whether nothing else may run meanwhile.
    pub(super) alone: bool,
    pub(super) act: Box<dyn FnOnce() -> Vec<Outcome> + Send + 'a>,
}

/// How many hosts this machine can run at a time.
pub(super) fn of_this_machine() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    count(cpus, available_kib(&meminfo))
}

fn count(cpus: usize, available_kib: u64) -> usize {
    let room = usize::try_from(available_kib / HOST_KIB).unwrap_or(MOST);
    cpus.min(room).clamp(1, MOST)
}

fn available_kib(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Runs all jobs, begun in their order. `done` is shown each outcome as it falls.
pub(super) fn run(jobs: Vec<Job<'_>>, lanes: usize, mut done: impl FnMut(Outcome)) {
    let (alone, shared): (VecDeque<_>, VecDeque<_>) = jobs.into_iter().partition(|job| job.alone);
    for (jobs, lanes) in [(shared, lanes), (alone, 1)] {
        let jobs = Mutex::new(jobs);
        let (sender, outcomes) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                let sender = sender.clone();
                let jobs = &jobs;
                scope.spawn(move || {
                    while let Some(job) = next(jobs) {
                        for outcome in (job.act)() {
                            // The receiver outlives all the lanes.
                            let _ = sender.send(outcome);
                        }
                    }
                });
            }
            drop(sender);
            outcomes.iter().for_each(&mut done);
        });
    }
}

fn next<'a>(jobs: &Mutex<VecDeque<Job<'a>>>) -> Option<Job<'a>> {
    // A lane that panicked had none of the queue in its hands.
    jobs.lock().unwrap_or_else(|e| e.into_inner()).pop_front()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn outcome(name: &str) -> Vec<Outcome> {
        vec![Outcome {
            name: name.to_owned(),
            error: None,
            took: Duration::ZERO,
        }]
    }

    #[test]
    fn lanes_run_side_by_side_and_the_lonely_last() {
        let both = Barrier::new(2);
        let running = AtomicUsize::new(0);
        let meets = |name: &'static str| Job {
            alone: false,
            act: Box::new(|| {
                running.fetch_add(1, Ordering::SeqCst);
                // Returns only when the other one has come as well.
                both.wait();
                running.fetch_sub(1, Ordering::SeqCst);
                outcome(name)
            }),
        };
        let lonely = Job {
            alone: true,
            act: Box::new(|| {
                assert_eq!(running.load(Ordering::SeqCst), 0);
                outcome("lonely")
            }),
        };
        let mut names = Vec::new();
        run(vec![lonely, meets("a"), meets("b")], 2, |outcome| {
            names.push(outcome.name);
        });
        names[..2].sort();
        assert_eq!(names, ["a", "b", "lonely"]);
    }

    #[test]
    fn memory_and_cpus_both_limit() {
        let gib = 1024 * 1024;
        assert_eq!(count(2, 20 * gib), 2);
        assert_eq!(count(16, 20 * gib), 3);
        assert_eq!(count(16, 3 * gib), 1);
        assert_eq!(count(64, 900 * gib), MOST);
        assert_eq!(available_kib("MemFree: 1 kB\nMemAvailable:   77 kB\n"), 77);
        assert_eq!(available_kib(""), 0);
    }
}
