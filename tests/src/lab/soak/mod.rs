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

/// The name under which a guest's report is sent that was resumed after a kexec.
const RESUMED: &str = "resume";
/// The time limits for booting the guest and for one update, on a slow machine.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
const UPDATE_LIMIT: Duration = Duration::from_secs(60);

/// How often the host of `soak/kexecs` is updated.
const KEXECS_PER_HOST: u32 = 4;

/// A host, and how often its guest is updated in each of its kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    kexecs: u32,
    updates: u32,
    seed: u64,
}

/// What was seen, in all hosts.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    samples: Vec<Sample>,
    /// Kexecs after which the guest was found well.
    kexecs: usize,
    /// What went wrong.
    failures: Vec<String>,
}

pub(crate) fn run(args: &SoakArgs) -> Result<ExitCode> {
    let lab = Lab::open()?;
    let mut progress = Progress::start("Updates", Some(args.updates.into()));
    let mut seen = Seen::default();
    for round in rounds(args) {
        seen.add(one_host(&lab, args.debug, round, &mut progress)?)?;
        if !seen.failures.is_empty() {
            break;
        }
    }
    progress.done();
    write(args, &seen)?;
    let mut out = std::io::stdout();
    for (kind, count) in counts(&seen.samples) {
        writeln!(out, "{kind:24} {count:>6}")?;
    }
    writeln!(out, "{:24} {:>6}", "host updated", seen.kexecs)?;
    for line in &seen.failures {
        eprintln!("lab: {line}");
    }
    Ok(ExitCode::from(u8::from(!seen.failures.is_empty())))
}

/// The hosts for so many updates and kexecs, each with choices of its own.
fn rounds(args: &SoakArgs) -> Vec<Round> {
    if args.kexecs == 0 {
        let (updates, seed) = (args.updates, args.seed);
        return vec![Round {
            kexecs: 0,
            updates,
            seed,
        }];
    }
    let hosts = args.kexecs.div_ceil(KEXECS_PER_HOST);
    let round = |host| Round {
        kexecs: KEXECS_PER_HOST,
        updates: args.updates.div_ceil(hosts * KEXECS_PER_HOST),
        // Each kernel of a host adds to it.
        seed: args.seed + u64::from(host * KEXECS_PER_HOST),
    };
    (0..hosts).map(round).collect()
}

/// Runs a host to its end.
fn one_host(lab: &Lab, debug: bool, round: Round, progress: &mut Progress) -> Result<Record> {
    let (kind, name) = match round.kexecs {
        0 => (HostKind::GuestSoak, "soak/updates"),
        _ => (HostKind::Guest, "soak/kexecs"),
    };
    let (updates, seed) = (round.updates, round.seed);
    let group = Group {
        kind,
        kernels: round.kexecs as usize + 1,
        names: vec![name],
        environment: format!("{}={updates} {}={seed}", soak::UPDATES, soak::SEED),
        guests: 1,
        more_memory_mib: 0,
        debug,
        other: None,
    };
    let host = group.prepare(lab)?;
    let host = host.within(BOOT_LIMIT + UPDATE_LIMIT * updates);
    let record = host.run(lab, |line| {
        if is_sample(line) {
            progress.step();
        }
    })?;
    if !record.faults().is_empty() {
        eprintln!("lab: the logs are in {}", host.dir.display());
    }
    Ok(record)
}

impl Seen {
    fn add(&mut self, host: Record) -> Result<()> {
        for mut sample in samples(&host)? {
            sample.update = self.samples.len() as u64 + 1;
            self.samples.push(sample);
        }
        let resumed = host.values.iter().filter(|value| value.name == RESUMED);
        self.kexecs += resumed.count();
        self.failures.extend(host.faults());
        Ok(())
    }
}

fn write(args: &SoakArgs, seen: &Seen) -> Result<()> {
    if let Some(path) = &args.json {
        let report = json!({
            "updates": seen.samples.len(), "kexecs": seen.kexecs, "seed": args.seed, "failures": seen.failures,
            "samples": seen.samples,
        });
        fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("Write {}", path.display()))?;
    }
    if let Some(path) = &args.report {
        fs::write(path, page::page(seen, args.seed))
            .with_context(|| format!("Write {}", path.display()))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn rounds_of(options: &[&str]) -> Vec<Round> {
        let cli = Cli::parse_from([&["lab", "soak"], options].concat());
        match cli.command {
            Command::Soak(args) => rounds(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn kexecs_come_in_fours_with_the_updates_among_them() {
        let round = |kexecs, updates, seed| Round {
            kexecs,
            updates,
            seed,
        };
        assert_eq!(rounds_of(&["--updates", "7"]), [round(0, 7, 1)]);
        let two = rounds_of(&["--updates", "81", "--kexecs", "5", "--seed", "3"]);
        assert_eq!(two, [round(4, 11, 3), round(4, 11, 7)]);
    }
}
