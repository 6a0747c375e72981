//! Runs several hosts at a time.
//!
//! An emulated host with one CPU keeps about one of the machine's CPUs busy, and needs some memory.
//! There are as many lanes as both allow, and each runs one job after the other. A host that needs
//! more runs alone, after all the others.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;
use fdbox_lab::scenario::HostKind;

use crate::kernel::Flavour;
use crate::verdict::Outcome;

/// The maximum of the machine's memory that a host of the suite uses, in KiB.
const HOST_KIB: u64 = 6 * 1024 * 1024;
/// More lanes would not make the run shorter than its longest job.
const MOST: usize = 8;

/// What has to be built for a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The kernels that it boots, in addition to the usual ones.
    pub(super) kernels: Vec<Flavour>,
    /// The kind of host whose programs run in it; without one only init is needed.
    pub(super) programs: Option<HostKind>,
    /// Whether it runs the kernel's selftests.
    pub(super) selftests: bool,
}

/// One host, and its results.
pub(super) struct Job<'a> {
    /// The name under which its cost is recorded.
    pub(super) host: String,
    /// The tests that it gives a verdict on.
    pub(super) tests: Vec<String>,
    /// The number of kernels it boots.
    pub(super) kernels: usize,
    /// Whether the scenarios of its kind share it.
    pub(super) is_shared: bool,
    pub(super) needs: Needs,
    /// Whether nothing else may run at the same time.
    pub(super) alone: bool,
    pub(super) act: Box<dyn FnOnce() -> Vec<Outcome> + Send + 'a>,
}

impl<'a> Job<'a> {
    /// A host with one test of the same name, which needs nothing built.
    pub(super) fn of_one(
        name: &str,
        kernels: usize,
        test: impl FnOnce() -> Result<()> + Send + 'a,
    ) -> Self {
        let (host, name) = (name.to_owned(), name.to_owned());
        Self {
            host,
            tests: vec![name.clone()],
            kernels,
            is_shared: false,
            needs: Needs::default(),
            alone: false,
            act: Box::new(move || {
                let started = Instant::now();
                let error = test().err();
                vec![Outcome {
                    name,
                    error: error.map(|error| format!("{error:#}")),
                    took: started.elapsed(),
                }]
            }),
        }
    }

    /// Whether a filter may have excluded some of its tests.
    pub(super) fn can_be_partial(&self) -> bool {
        self.is_shared || self.needs.selftests
    }
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// A result of a job, or its end.
enum LaneMessage {
    Outcome(Outcome),
    Over { host: String, took: Duration },
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

/// Runs all jobs, starting them in order. `done` gets each outcome as soon as it is known. Returns
/// how long each host took.
pub(super) fn run(
    jobs: Vec<Job<'_>>,
    lanes: usize,
    mut done: impl FnMut(Outcome),
) -> Vec<(String, Duration)> {
    let (alone, shared): (VecDeque<_>, VecDeque<_>) = jobs.into_iter().partition(|job| job.alone);
    let mut hosts = Vec::new();
    for (jobs, lanes) in [(shared, lanes), (alone, 1)] {
        let jobs = Mutex::new(jobs);
        let (sender, messages) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                let sender = sender.clone();
                let jobs = &jobs;
                scope.spawn(move || lane(jobs, &sender));
            }
            drop(sender);
            for message in messages {
                match message {
                    LaneMessage::Outcome(outcome) => done(outcome),
                    LaneMessage::Over { host, took } => hosts.push((host, took)),
                }
            }
        });
    }
    hosts
}

/// Runs one job after the other. The receiver outlives all lanes.
fn lane(jobs: &Mutex<VecDeque<Job<'_>>>, sender: &mpsc::Sender<LaneMessage>) {
    while let Some(job) = next(jobs) {
        let started = Instant::now();
        for outcome in (job.act)() {
            let _ = sender.send(LaneMessage::Outcome(outcome));
        }
        let _ = sender.send(LaneMessage::Over {
            host: job.host,
            took: started.elapsed(),
        });
    }
}

fn next<'a>(jobs: &Mutex<VecDeque<Job<'a>>>) -> Option<Job<'a>> {
    // A lane that panicked did not hold any part of the queue.
    jobs.lock().unwrap_or_else(|e| e.into_inner()).pop_front()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

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
        let job = |name: &str, alone, act| Job {
            host: name.to_owned(),
            tests: vec![name.to_owned()],
            kernels: 1,
            is_shared: false,
            needs: Needs::default(),
            alone,
            act,
        };
        let meets = |name: &'static str| {
            let act = || {
                running.fetch_add(1, Ordering::SeqCst);
                // Returns only when the other one has arrived, too.
                both.wait();
                running.fetch_sub(1, Ordering::SeqCst);
                outcome(name)
            };
            job(name, false, Box::new(act))
        };
        let act = || {
            assert_eq!(running.load(Ordering::SeqCst), 0);
            outcome("lonely")
        };
        let lonely = job("lonely", true, Box::new(act));
        let mut names = Vec::new();
        let mut hosts = run(vec![lonely, meets("a"), meets("b")], 2, |outcome| {
            names.push(outcome.name);
        });
        names[..2].sort();
        assert_eq!(names, ["a", "b", "lonely"]);
        hosts.sort();
        let hosts: Vec<_> = hosts.into_iter().map(|(host, _)| host).collect();
        assert_eq!(hosts, names, "each host's time is known");
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
