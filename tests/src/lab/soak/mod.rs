//! `cargo lab soak`: updates a guest again and again, and shows what that leaves in the host.

mod page;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::soak::{self, Kind, Sample};
use serde_json::json;

pub(crate) use self::page::sample as sample_page;
use crate::cli::SoakArgs;
use crate::lab::Lab;
use crate::lines::{Line, LineContent};
use crate::progress::Progress;
use crate::run::Record;
use crate::scenario_host::Group;

/// The time limits for booting the guest and for one update, on a slow machine.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
const UPDATE_LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &SoakArgs) -> Result<ExitCode> {
    let lab = Lab::open()?;
    let group = Group {
        kind: HostKind::GuestSoak,
        kernels: 1,
        names: vec!["soak/updates"],
        environment: format!(
            "{}={} {}={}",
            soak::UPDATES,
            args.updates,
            soak::SEED,
            args.seed
        ),
        guests: 1,
        more_memory_mib: 0,
        debug: args.debug,
        other: None,
    };
    let limit = BOOT_LIMIT + UPDATE_LIMIT * args.updates;
    let host = group.prepare(&lab)?.within(limit);
    let mut progress = Progress::start("Updates", Some(args.updates.into()));
    let record = host.run(&lab, |line| {
        if is_sample(line) {
            progress.step();
        }
    })?;
    progress.done();
    let samples = samples(&record)?;
    let wrong = record.faults();
    if let Some(path) = &args.json {
        let report = json!({
            "updates": samples.len(), "seed": args.seed, "failures": wrong, "samples": samples,
        });
        fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("Write {}", path.display()))?;
    }
    if let Some(path) = &args.report {
        fs::write(path, page::page(&samples, args.seed, &wrong))
            .with_context(|| format!("Write {}", path.display()))?;
    }
    let mut out = std::io::stdout();
    for (kind, count) in counts(&samples) {
        writeln!(out, "{kind:24} {count:>6}")?;
    }
    for line in &wrong {
        eprintln!("lab: {line}");
    }
    if !wrong.is_empty() {
        eprintln!("lab: the logs are in {}", host.dir.display());
    }
    Ok(ExitCode::from(u8::from(!wrong.is_empty())))
}

fn is_sample(line: &Line) -> bool {
    use fdbox_lab::event::Event;
    matches!(&line.content, LineContent::Event(Event::Value { name, .. }) if name == soak::SAMPLE)
}

fn samples(record: &Record) -> Result<Vec<Sample>> {
    let values = record.values.iter();
    let samples = values.filter(|value| value.name == soak::SAMPLE);
    let samples = samples.map(|value| serde_json::from_value(value.value.clone()));
    samples
        .collect::<Result<_, _>>()
        .context("What the scenario sent after an update")
}

fn counts(samples: &[Sample]) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    for sample in samples {
        *counts.entry(sample.kind).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|(kind, count)| (words(kind).to_owned(), count))
        .collect()
}

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Replaced => "VMM replaced",
        Kind::ReplacementFailed => "replacement failed",
        Kind::NewVmmEnded => "new VMM ended",
        Kind::HostUpdateFailed => "host update failed",
        Kind::HostUpdateCancelled => "host update cancelled",
    }
}
