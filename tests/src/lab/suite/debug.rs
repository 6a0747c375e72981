//! Runs scenarios again in a debug kernel: with lockdep, kmemleak, and the other options in
//! `tests/kernel/debug.config`.
//!
//! There is one verdict per boot, because such a kernel rarely detects a problem while the scenario
//! that causes it is still running.

use std::time::Instant;

use anyhow::Result;
use fdbox_lab::scenario::{HostKind, Listed};

use super::Suite;
use super::lanes::Job;
use super::scenarios::{Boot, list};
use crate::cli::TestArgs;
use crate::lab::Lab;
use crate::verdict::{Outcome, stage_errors};

/// The scenario that ends each boot.
const LEAKS: &str = "leaks";

/// (the test's name, the kind of its scenarios, the scenario if not all of that kind).
const TESTS: &[(&str, HostKind, Option<&str>)] = &[
    ("debug/one-kernel", HostKind::OneBoot, None),
    ("debug/kexec", HostKind::Kexec, None),
    ("debug/failing-load", HostKind::FailingLoad, None),
    ("debug/guest", HostKind::Guest, Some("guest/guest-memfd")),
    (
        "debug/passthrough",
        HostKind::Passthrough,
        Some("passthrough/two-devices"),
    ),
    (
        "debug/passthrough-amd",
        HostKind::PassthroughAmdVi,
        Some("passthrough/amd-two-devices"),
    ),
    (
        "debug/passthrough-given-up",
        HostKind::Passthrough,
        Some("passthrough/nobody-takes-it"),
    ),
    (
        "debug/passthrough-one-kernel",
        HostKind::PassthroughOneBoot,
        Some("passthrough/same-host"),
    ),
    (
        "debug/failing-passthrough",
        HostKind::FailingPassthrough,
        None,
    ),
];

/// One job per boot.
pub(super) fn jobs<'a>(suite: &Suite<'a>, args: &'a TestArgs) -> Result<Vec<Job<'a>>> {
    let lab = suite.lab;
    let verbose = args.verbose;
    let wanted: Vec<_> = TESTS
        .iter()
        .filter(|(name, ..)| suite.wants(name))
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let listed = list(lab)?;
    let job = |(name, kind, only): &(&'static str, HostKind, Option<&str>)| {
        let (name, boot) = (*name, boot(*kind, *only, &listed));
        Job {
            host: name.to_owned(),
            tests: vec![name.to_owned()],
            kernels: boot.kernels,
            is_shared: false,
            needs: boot.needs(),
            alone: false,
            act: Box::new(move || vec![outcome(name, &boot, lab, verbose)]),
        }
    };
    Ok(wanted.into_iter().map(job).collect())
}

/// The scenarios of this kind, or only one of them.
fn boot(kind: HostKind, only: Option<&str>, listed: &[Listed]) -> Boot {
    let is_in =
        |listed: &&Listed| listed.host == kind && only.is_none_or(|only| listed.name == only);
    let group: Vec<Listed> = listed.iter().filter(is_in).cloned().collect();
    // Those with the smallest number of kernels share one boot; two kernels are as good as three
    // here.
    let kernels = group.iter().map(|listed| listed.kernels).min().unwrap_or(1);
    let group = group.into_iter().filter(|listed| listed.kernels == kernels);
    Boot {
        kind,
        kernels,
        group: group.collect(),
        debug: true,
        other: None,
        cpus: None,
        environment: "",
    }
}

fn outcome(name: &str, boot: &Boot, lab: &Lab, verbose: bool) -> Outcome {
    let started = Instant::now();
    let error = judge(lab, boot, verbose).unwrap_or_else(|error| Some(format!("{error:#}")));
    Outcome {
        name: name.to_owned(),
        error,
        took: started.elapsed(),
    }
}

/// What went wrong in a boot, if anything.
fn judge(lab: &Lab, boot: &Boot, verbose: bool) -> Result<Option<String>> {
    let (record, logs) = boot.run(lab, verbose)?;
    let mut errors = Vec::new();
    for listed in &boot.group {
        let failed = stage_errors(listed, &record).0;
        errors.extend(
            failed
                .into_iter()
                .map(|error| format!("{}: {error}", listed.name)),
        );
    }
    let last = boot.kernels;
    let leaks = |stage| {
        let ends = record.scenarios.iter();
        ends.filter(move |end| end.name == LEAKS && end.stage == stage)
    };
    if leaks(last).count() != 1 {
        errors.push("Nobody looked for leaks in the last kernel".into());
    }
    for stage in 1..=last {
        errors.extend(leaks(stage).filter_map(|end| end.error.clone()));
    }
    // Nothing in the suite needs an option that this kernel lacks.
    let skipped = record.values.iter().filter(|value| value.name == "skipped");
    errors.extend(skipped.map(|value| format!("Skipped: {}", value.value)));
    errors.extend(record.failures.iter().map(ToString::to_string));
    Ok((!errors.is_empty()).then(|| format!("{}\nLogs: {logs}", errors.join("\n"))))
}
