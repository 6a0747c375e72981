//! Fuzzing with a stable compiler: a target is a function of bytes, run as a test named `fuzz_TARGET`.
//!
//! In `cargo test` it gets its seeds, the inputs of the corpus and some mutations, the same ones each time. With the
//! variables below it runs for as long as it is told to; `cargo lab fuzz` sets them, and builds the target with the
//! compiler's coverage counters, which tell it which inputs lead to code that no other one has reached.
//!
//! Other crates of this repository include this directory by its path.

mod corpus;
mod coverage;
mod mutate;
mod watchdog;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corpus::Corpus;
use coverage::Coverage;
use mutate::Mutator;
use watchdog::Watchdog;

/// For how many seconds to run.
const SECONDS: &str = "FDBOX_FUZZ_SECONDS";
/// Where the inputs that were found and those that failed are written.
const DIR: &str = "FDBOX_FUZZ_DIR";
/// The seed of the mutations.
const SEED: &str = "FDBOX_FUZZ_SEED";
/// A file: the only input to run.
const REPLAY: &str = "FDBOX_FUZZ_REPLAY";
/// Writes the inputs that are worth keeping into the repository.
const SAVE: &str = "FDBOX_FUZZ_SAVE";

/// The mutations of a run in `cargo test`.
const FEW: u64 = 300;
/// How often progress is reported.
const REPORT: Duration = Duration::from_secs(10);

/// Runs a target. It must return whatever the bytes are: a panic is a failure.
pub(crate) fn run(name: &str, seeds: &[&[u8]], target: impl Fn(&[u8])) {
    if let Some(path) = std::env::var_os(REPLAY) {
        let input = fs::read(&path).expect("the input to replay");
        return target(&input);
    }
    let dir = std::env::var_os(DIR).map(PathBuf::from);
    let corpus = Corpus::read(name, seeds, dir.as_deref());
    let found = Campaign::new(name, dir, corpus).run(&target);
    if let Err(failure) = found {
        let path = failure.display();
        panic!("{name} failed. To replay it: cargo lab fuzz {name} --replay {path}");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The run of a target.
struct Campaign<'a> {
    name: &'a str,
    /// `None` in `cargo test`.
    dir: Option<PathBuf>,
    /// The input that is being run, for whoever finds this process dead: its length, and then itself.
    current: Option<File>,
    corpus: Corpus,
    coverage: Coverage,
    mutator: Mutator,
    watchdog: Watchdog,
    executions: u64,
    begun: Instant,
}

impl<'a> Campaign<'a> {
    fn new(name: &'a str, dir: Option<PathBuf>, corpus: Corpus) -> Self {
        let current = dir.as_deref().map(|dir| {
            fs::create_dir_all(dir).expect("the directory of the run");
            File::create(dir.join("current")).expect("the file of the current input")
        });
        Self {
            name,
            dir,
            current,
            corpus,
            coverage: Coverage::new(),
            mutator: Mutator::new(number(SEED).unwrap_or(1)),
            watchdog: Watchdog::start(name),
            executions: 0,
            begun: Instant::now(),
        }
    }

    /// Returns the path of an input that failed.
    fn run(mut self, target: &impl Fn(&[u8])) -> Result<(), PathBuf> {
        let known = self.corpus.known();
        for input in &known {
            self.execute(input, target)?;
        }
        let limit = number(SECONDS).map(Duration::from_secs);
        let mut reported = self.begun;
        let mut left = FEW;
        loop {
            let is_over = match limit {
                Some(limit) => self.begun.elapsed() >= limit,
                None => left == 0,
            };
            if is_over {
                break;
            }
            left = left.saturating_sub(1);
            let input = self.corpus.mutated(&mut self.mutator);
            if self.execute(&input, target)? {
                self.corpus.add(input);
            }
            if self.dir.is_some() && reported.elapsed() >= REPORT {
                reported = Instant::now();
                self.report();
            }
        }
        self.end(target)
    }

    /// Runs an input; returns whether it led to code that none before it did.
    fn execute(&mut self, input: &[u8], target: &impl Fn(&[u8])) -> Result<bool, PathBuf> {
        if let Some(current) = &self.current {
            let record = [&(input.len() as u64).to_le_bytes()[..], input].concat();
            current.write_all_at(&record, 0).expect("the current input");
        }
        self.executions += 1;
        self.watchdog.executing(self.executions);
        self.coverage.begin();
        let ended = catch_unwind(AssertUnwindSafe(|| target(input)));
        let is_new = self.coverage.end();
        match ended {
            Ok(()) => Ok(is_new),
            Err(_) => Err(self.keep_failure(input)),
        }
    }

    fn keep_failure(&self, input: &[u8]) -> PathBuf {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => std::env::temp_dir().join("fdbox-fuzz").join(self.name),
        };
        fs::create_dir_all(&dir).expect("the directory of the failure");
        let path = dir.join(format!("crash-{}", corpus::name_of(input)));
        fs::write(&path, input).expect("the failure's file");
        path
    }

    /// Writes what was found, and a report for programs.
    fn end(mut self, target: &impl Fn(&[u8])) -> Result<(), PathBuf> {
        let Some(dir) = self.dir.clone() else {
            return Ok(());
        };
        self.report();
        let report = format!(
            "{{\"target\":\"{}\",\"executions\":{},\"seconds\":{},\"covered\":{},\"counters\":{},\"inputs\":{}}}\n",
            self.name,
            self.executions,
            self.begun.elapsed().as_secs(),
            self.coverage.covered(),
            self.coverage.counters(),
            self.corpus.len(),
        );
        fs::write(dir.join("report.json"), report).expect("the report");
        let found = dir.join("corpus");
        self.corpus.write_found(&found);
        if std::env::var_os(SAVE).is_some() {
            self.save(target)?;
        }
        Ok(())
    }

    /// Writes into the repository, smallest first, each input that leads to something new.
    fn save(&mut self, target: &impl Fn(&[u8])) -> Result<(), PathBuf> {
        self.coverage = Coverage::new();
        let mut kept = Vec::new();
        for (is_seed, input) in self.corpus.smallest_first() {
            if self.execute(&input, target)? && !is_seed {
                kept.push(input);
            }
        }
        corpus::replace(self.name, &kept);
        Ok(())
    }

    fn report(&self) {
        let seconds = self.begun.elapsed().as_secs();
        eprintln!(
            "{}: {} executions in {seconds} s, {} of {} counters, {} inputs",
            self.name,
            self.executions,
            self.coverage.covered(),
            self.coverage.counters(),
            self.corpus.len(),
        );
    }
}

/// Takes numbers and bytes from the front of an input, and zeroes behind its end.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// The corpus of a target in the repository; without the repository there is none.
fn corpus_dir(name: &str) -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    checkout.join("tests/fuzz").join(name)
}

#[cfg(test)]
mod tests;
