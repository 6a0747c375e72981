//! `cargo lab ioctls`: random ioctls of several processes, for as long as is wanted.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fdbox_lab::event::Event;
use fdbox_lab::ioctls::{CALLS, CALLS_PER_VALUE, COUNTS, Counts, SEED};
use fdbox_lab::scenario::HostKind;

use crate::bench::table::Table;
use crate::cli::IoctlsArgs;
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::lines::LineContent;
use crate::progress::Progress;
use crate::run::Record;
use crate::scenario_host::{Group, OtherKernels};

/// The time limits for booting, and for a call in the slowest kernel.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const CALL_LIMIT: Duration = Duration::from_millis(20);

const KASAN: OtherKernels = OtherKernels {
    host: &[Flavour::Kasan],
    guest: Flavour::Stock,
};

pub(crate) fn run(args: &IoctlsArgs) -> Result<ExitCode> {
    let lab = Lab::open()?;
    let group = Group {
        kind: HostKind::OneBoot,
        kernels: 1,
        names: vec!["ioctls/random"],
        environment: format!("{CALLS}={} {SEED}={}", args.calls, args.seed),
        guests: 0,
        more_memory_mib: 0,
        debug: args.debug || args.kasan,
        other: args.kasan.then_some(KASAN),
        cpus: None,
    };
    let limit = BOOT_LIMIT + CALL_LIMIT * args.calls;
    let host = group.prepare(&lab)?.within(limit);
    let values = u64::from(args.calls) / CALLS_PER_VALUE;
    let mut progress = Progress::start("Calls", Some(values.max(1)));
    let started = Instant::now();
    let record = host.run(&lab, |line| {
        if matches!(&line.content, LineContent::Event(Event::Value { name, .. }) if name == COUNTS)
        {
            progress.step();
        }
    })?;
    let took = started.elapsed();
    progress.done();
    if let Some(counts) = counts(&record)? {
        println!("{}", table(&counts, args.seed, took).text());
    }
    let wrong = record.faults();
    for line in &wrong {
        eprintln!("lab: {line}");
    }
    if !wrong.is_empty() {
        eprintln!("lab: the logs are in {}", host.dir.display());
    }
    Ok(ExitCode::from(u8::from(!wrong.is_empty())))
}

/// The last ones that were sent.
fn counts(record: &Record) -> Result<Option<Counts>> {
    let mut values = record.values.iter().rev();
    let last = values.find(|value| value.name == COUNTS);
    let counts = last.map(|value| serde_json::from_value(value.value.clone()));
    counts.transpose().context("What the scenario sent")
}

fn table(counts: &Counts, seed: u64, took: Duration) -> Table {
    let heads = [
        "calls",
        "succeeded",
        "with an allocation that fails",
        "processes",
        "killed",
        "seconds",
        "seed",
    ];
    let mut table = Table::new("Random ioctls", &heads);
    table.add([
        counts.calls.to_string(),
        counts.succeeded.to_string(),
        counts.failing.to_string(),
        counts.processes.to_string(),
        counts.killed.to_string(),
        took.as_secs().to_string(),
        seed.to_string(),
    ]);
    table
}
