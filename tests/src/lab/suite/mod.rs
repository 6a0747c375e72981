//! `cargo lab test`: everything CI runs, each test with its verdict and its time.

mod debug;
mod drift;
mod expected;
mod host_command;
mod lanes;
mod scenarios;
mod selftests;
mod source;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use self::lanes::Job;
use crate::cli::TestArgs;
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::progress::human;

/// One test's verdict.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) error: Option<String>,
    pub(crate) took: Duration,
}

/// Collects the verdicts, and shows each as it falls.
#[derive(Debug)]
pub(crate) struct Suite<'a> {
    pub(crate) lab: &'a Lab,
    filters: &'a [String],
    outcomes: Vec<Outcome>,
}

impl Suite<'_> {
    /// Whether a test of this name is wanted.
    fn wants(&self, name: &str) -> bool {
        self.filters.is_empty()
            || self
                .filters
                .iter()
                .any(|filter| name.contains(filter.as_str()))
    }

    /// Runs one test that is the lab's own work.
    fn check(&mut self, name: &str, act: impl FnOnce(&Lab) -> Result<()>) {
        if !self.wants(name) {
            return;
        }
        let started = Instant::now();
        let error = act(self.lab).err().map(|error| format!("{error:#}"));
        self.add(Outcome {
            name: name.to_owned(),
            error,
            took: started.elapsed(),
        });
    }

    fn add(&mut self, outcome: Outcome) {
        let verdict = if outcome.error.is_some() {
            "FAILED"
        } else {
            "ok"
        };
        let took = human(outcome.took);
        // Nobody left to read it: the exit status still tells.
        let _ = writeln!(
            std::io::stdout(),
            "{:44} {verdict:6} {took:>12}",
            outcome.name
        );
        if let Some(error) = &outcome.error {
            for line in error.lines() {
                let _ = writeln!(std::io::stdout(), "    {line}");
            }
        }
        self.outcomes.push(outcome);
    }
}

pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let lab = Lab::open()?;
    let started = Instant::now();
    let mut suite = Suite {
        lab: &lab,
        filters: &args.filters,
        outcomes: Vec::new(),
    };
    source::run(&mut suite);
    let jobs = jobs(&suite, args)?;
    // Two consoles at a time are nothing to read.
    let lanes = match (args.lanes, args.verbose) {
        (Some(lanes), _) => lanes.into(),
        (None, true) => 1,
        (None, false) => lanes::of_this_machine(),
    };
    lanes::run(jobs, lanes, |outcome| suite.add(outcome));
    if suite.outcomes.is_empty() {
        bail!("No test has {} in its name", args.filters.join(" or "));
    }
    let failed = suite
        .outcomes
        .iter()
        .filter(|outcome| outcome.error.is_some())
        .count();
    let passed = suite.outcomes.len() - failed;
    if let Some(path) = &args.json {
        write_json(path, &suite.outcomes, started.elapsed())?;
    }
    println!();
    println!("{passed} passed, {failed} failed");
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// All that needs a host. Kernels and programs are built before the first of them runs: beside a build
/// an emulated host is slow.
fn jobs<'a>(suite: &Suite<'a>, args: &'a TestArgs) -> Result<Vec<Job<'a>>> {
    let scenarios = scenarios::jobs(suite, args)?;
    let debug = debug::jobs(suite, args)?;
    // What takes longest is begun first, for the lanes should end together.
    let mut jobs = selftests::jobs(suite, args.verbose);
    let mut flavours = vec![Flavour::Stock, Flavour::A, Flavour::B];
    if !debug.is_empty() {
        flavours.push(Flavour::Debug);
    }
    let host = host_command::jobs(suite, args.verbose);
    if jobs.is_empty() && debug.is_empty() && scenarios.is_empty() && host.is_empty() {
        return Ok(jobs);
    }
    let kernels = suite.lab.kernels()?;
    for flavour in flavours {
        suite.lab.modules(&kernels.get(flavour)?)?;
    }
    for flavour in selftests::kernels(suite) {
        kernels.get(flavour)?;
    }
    jobs.extend(debug);
    jobs.extend(scenarios);
    jobs.extend(host);
    Ok(jobs)
}

fn write_json(path: &Path, outcomes: &[Outcome], took: Duration) -> Result<()> {
    let failed = outcomes
        .iter()
        .filter(|outcome| outcome.error.is_some())
        .count();
    let tests: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            json!({
                "name": outcome.name,
                "passed": outcome.error.is_none(),
                "error": outcome.error,
                "seconds": outcome.took.as_secs_f64(),
            })
        })
        .collect();
    let report = json!({
        "passed": outcomes.len() - failed,
        "failed": failed,
        "seconds": took.as_secs_f64(),
        "tests": tests,
    });
    std::fs::write(path, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("Write {}", path.display()))
}
