//! `cargo lab soak`: updates a guest again and again, and shows what that leaves in the host.

mod page;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fdbox_lab::scenario::{HostKind, Listed};
use fdbox_lab::soak::{self, Kind, Sample};
use serde_json::json;

pub(crate) use self::page::sample as sample_page;
use crate::cli::SoakArgs;
use crate::lab::Lab;
use crate::lines::{Line, LineContent};
use crate::progress::Progress;
use crate::run::Record;
use crate::scenario_host::Group;
use crate::verdict::judge;

/// The name under which a guest's report is sent that was resumed after a kexec.
const RESUMED: &str = "resume";
/// The time limits for booting the guest and for one update, on a slow machine.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
const UPDATE_LIMIT: Duration = Duration::from_secs(60);

/// How often a host is updated, if it is.
const KEXECS_PER_HOST: u32 = 4;
const KERNELS_PER_HOST: u32 = KEXECS_PER_HOST + 1;

/// A host, and how often its guest is updated in each of its kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    scenario: &'static str,
    host: HostKind,
    kernels: u32,
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
    let total = args.hours.is_none().then_some(args.updates.into());
    let mut progress = Progress::start("Updates", total);
    let started = Instant::now();
    let mut seen = Seen::default();
    for (done, round) in rounds(args).enumerate() {
        let is_over = match args.hours {
            Some(limit) => started.elapsed() >= limit,
            None => done == hosts(args) as usize,
        };
        if is_over || !seen.failures.is_empty() {
            break;
        }
        seen.add(&one_host(&lab, args.debug, round, &mut progress)?)?;
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

/// How many hosts it takes for so many kexecs.
fn hosts(args: &SoakArgs) -> u32 {
    args.kexecs.div_ceil(KEXECS_PER_HOST).max(1)
}

/// One host after the other, without an end. Each kernel has choices of its own.
fn rounds(args: &SoakArgs) -> impl Iterator<Item = Round> {
    let (scenario, host, kernels) = match (args.kexecs, &args.device) {
        (0, _) => ("soak/updates", HostKind::GuestSoak, 1),
        (_, None) => ("soak/kexecs", HostKind::Guest, KERNELS_PER_HOST),
        (_, Some(_)) => ("soak/device", HostKind::GuestPassthrough, KERNELS_PER_HOST),
    };
    let updates = args.updates.div_ceil(hosts(args) * kernels);
    let seeds = (args.seed..).step_by(kernels as usize);
    seeds.map(move |seed| Round {
        scenario,
        host,
        kernels,
        updates,
        seed,
    })
}

/// What a host did, and what was wrong with it.
struct Ended {
    record: Record,
    failures: Vec<String>,
}

/// Runs a host to its end.
fn one_host(lab: &Lab, debug: bool, round: Round, progress: &mut Progress) -> Result<Ended> {
    let (updates, seed) = (round.updates, round.seed);
    let kernels = round.kernels as usize;
    let group = Group {
        kind: round.host,
        kernels,
        names: vec![round.scenario],
        environment: format!("{}={updates} {}={seed}", soak::UPDATES, soak::SEED),
        guests: 1,
        more_memory_mib: 0,
        debug,
        other: None,
        cpus: None,
    };
    let host = group.prepare(lab)?;
    let host = host.within(BOOT_LIMIT + UPDATE_LIMIT * updates);
    let record = host.run(lab, |line| {
        if is_sample(line) {
            progress.step();
        }
    })?;
    let listed = Listed {
        name: round.scenario.to_owned(),
        about: String::new(),
        host: round.host,
        kernels,
    };
    // As in a test: with what the guest noticed of each kexec.
    let outcome = judge(&listed, 0, &record, &host.dir.display().to_string());
    Ok(Ended {
        failures: outcome.error.into_iter().collect(),
        record,
    })
}

impl Seen {
    fn add(&mut self, host: &Ended) -> Result<()> {
        for mut sample in host.record.all_named::<Sample>(soak::SAMPLE)? {
            sample.update = self.samples.len() as u64 + 1;
            self.samples.push(sample);
        }
        let values = host.record.values.iter();
        let resumed = values.filter(|value| value.name == RESUMED);
        self.kexecs += resumed.count();
        self.failures.extend_from_slice(&host.failures);
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

    /// How many hosts, and the first two.
    fn rounds_of(options: &[&str]) -> (u32, Vec<Round>) {
        let cli = Cli::parse_from([&["lab", "soak"], options].concat());
        match cli.command {
            Command::Soak(args) => (hosts(&args), rounds(&args).take(2).collect()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn kexecs_come_in_fours_with_the_updates_among_them() {
        let figures = |(hosts, rounds): (u32, Vec<Round>)| {
            let one = |round: &Round| (round.kernels, round.updates, round.seed);
            (hosts, rounds.iter().map(one).collect::<Vec<_>>())
        };
        let one = rounds_of(&["--updates", "7"]);
        assert_eq!(figures(one), (1, vec![(1, 7, 1), (1, 7, 2)]));
        let two = rounds_of(&["--updates", "81", "--kexecs", "5", "--seed", "3"]);
        assert_eq!(figures(two), (2, vec![(5, 9, 3), (5, 9, 8)]));
    }

    #[test]
    fn a_card_needs_kexecs() {
        let parse = |options: &[&str]| Cli::try_parse_from([&["lab", "soak"], options].concat());
        assert!(parse(&["--device", "e1000e"]).is_err());
        assert!(parse(&["--device", "e1000e", "--kexecs", "4"]).is_ok());
        assert!(parse(&["--hours", "0"]).is_err());
        assert!(parse(&["--hours", "0.5"]).is_ok());
    }
}
