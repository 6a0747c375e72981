//! `cargo lab test`: everything that CI runs, with a verdict and a duration for each test.

mod costs;
mod debug;
mod drift;
mod host_command;
mod lanes;
mod layout;
mod matrix;
mod noinit;
mod packages;
mod page;
mod plan;
mod prepare;
mod rotation;
mod scenarios;
mod selftests;
mod source;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;

use self::lanes::{Job, Needs};
use self::plan::Plan;
pub(crate) use self::rotation::Part;
use crate::cli::TestArgs;
use crate::lab::Lab;
use crate::programs;
use crate::progress::{human, say};
use crate::verdict::Outcome;

/// Collects the verdicts, and shows each as soon as it is known.
#[derive(Debug)]
pub(crate) struct Suite<'a> {
    pub(crate) lab: &'a Lab,
    filters: &'a [String],
    outcomes: Vec<Outcome>,
}

impl Suite<'_> {
    /// Whether a test with this name was requested.
    fn wants(&self, name: &str) -> bool {
        self.filters.is_empty()
            || self
                .filters
                .iter()
                .any(|filter| name.contains(filter.as_str()))
    }

    /// Runs one test that the lab performs itself.
    fn check(&mut self, name: &str, act: impl FnOnce(&Lab) -> Result<()>) {
        if !self.wants(name) {
            return;
        }
        let started = Instant::now();
        let error = act(self.lab).err().map(|error| format!("{error:#}"));
        self.lab.cache.stages().note(name, started);
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
        say(&format!("{:44} {verdict:6} {took:>12}", outcome.name));
        if let Some(error) = &outcome.error {
            error.lines().for_each(|line| say(&format!("    {line}")));
        }
        self.outcomes.push(outcome);
    }
}

pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let lab = Lab::open_with(&[programs::INIT, programs::SCENARIOS])?;
    let mut suite = Suite {
        lab: &lab,
        filters: &args.filters,
        outcomes: Vec::new(),
    };
    let mut plan = Plan::of(&suite, args)?;
    // The output of two consoles at a time would not be readable.
    let lanes = match (args.lanes, args.verbose) {
        (Some(lanes), _) => lanes.into(),
        (None, true) => 1,
        (None, false) => lanes::of_this_machine(),
    };
    plan.tell(lanes);
    if args.list {
        plan.list();
        return Ok(ExitCode::SUCCESS);
    }
    prepare(&mut suite, &plan)?;
    let jobs = std::mem::take(&mut plan.jobs);
    let is_partial = |job: &&Job<'_>| !args.filters.is_empty() && job.can_be_partial();
    let partial = jobs.iter().filter(is_partial).map(|job| job.host.clone());
    let partial: Vec<String> = partial.collect();
    let mut hosts = hosts(&mut suite, jobs, lanes);
    hosts.retain(|(host, _)| !partial.contains(host));
    if suite.outcomes.is_empty() {
        bail!("No test has {} in its name", args.filters.join(" or "));
    }
    if args.note_costs {
        costs::note(&lab.checkout, &hosts, args.all)?;
    }
    report(&suite, &plan, args)
}

/// Runs the tests that need no host, and builds what hosts need. Kernels are built in parallel with
/// cargo's work, because each of the two leaves CPUs idle at times.
fn prepare(suite: &mut Suite<'_>, plan: &Plan<'_>) -> Result<()> {
    let lab = suite.lab;
    let needs: Vec<Needs> = plan.jobs.iter().map(|job| job.needs.clone()).collect();
    std::thread::scope(|scope| {
        let kernels = scope.spawn(|| prepare::kernels(lab, &needs));
        source::workspace(suite);
        let programs = prepare::programs(lab, &needs);
        let kernels = kernels.join();
        kernels.map_err(|_| anyhow!("Building the kernels panicked"))??;
        programs
    })?;
    source::module(suite);
    Ok(())
}

/// Runs the hosts, and returns how long each took.
fn hosts(suite: &mut Suite<'_>, jobs: Vec<Job<'_>>, lanes: usize) -> Vec<(String, Duration)> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let started = Instant::now();
    let name = format!("{} hosts in {lanes} lanes", jobs.len());
    let hosts = lanes::run(jobs, lanes, |outcome| suite.add(outcome));
    suite.lab.cache.stages().note(&name, started);
    hosts
}

/// The summary of the run: where its time went, which part of the suite it covered, and how many
/// tests failed.
fn report(suite: &Suite<'_>, plan: &Plan<'_>, args: &TestArgs) -> Result<ExitCode> {
    let failed = suite
        .outcomes
        .iter()
        .filter(|it| it.error.is_some())
        .count();
    let passed = suite.outcomes.len() - failed;
    if let Some(path) = &args.json {
        write_json(path, suite, plan)?;
    }
    say("");
    suite
        .lab
        .cache
        .stages()
        .table()
        .iter()
        .for_each(|line| say(line));
    say("");
    let coverage = plan.coverage(suite.outcomes.len());
    if let Some(path) = &args.report {
        std::fs::write(path, page::page(suite, coverage.as_deref()))
            .with_context(|| format!("Write {}", path.display()))?;
    }
    if let Some(coverage) = coverage {
        say(&coverage);
        say("");
    }
    say(&format!("{passed} passed, {failed} failed"));
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn write_json(path: &Path, suite: &Suite<'_>, plan: &Plan<'_>) -> Result<()> {
    let outcomes = &suite.outcomes;
    let failed = outcomes.iter().filter(|it| it.error.is_some()).count();
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
    let stages = suite.lab.cache.stages();
    let stage = |stage: crate::stages::Stage| {
        json!({
            "name": stage.name,
            "begins": stage.begins.as_secs_f64(),
            "seconds": stage.took.as_secs_f64(),
        })
    };
    let report = json!({
        "passed": outcomes.len() - failed,
        "failed": failed,
        "seconds": stages.elapsed().as_secs_f64(),
        "part": plan.part.map(|part| part.to_string()),
        "left_to_other_parts": plan.left,
        "stages": stages.list().into_iter().map(stage).collect::<Vec<_>>(),
        "tests": tests,
    });
    std::fs::write(path, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("Write {}", path.display()))
}
