//! `cargo lab bench`: how long the blackout of a guest is, and what it consists of.

mod against;
mod against_reads;
mod binary;
mod floor;
mod homes;
mod html;
mod large;
mod lifeboat;
mod memfd;
mod report;
mod runs;
mod sample;
mod seal;
mod stats;
pub(crate) mod table;
mod traffic;
mod twice;
mod update;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use fdbox_lab::event::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::against::Other;
use self::report::Report;
pub(crate) use self::sample::page as sample_page;
use crate::cli::BenchArgs;
use crate::guest::GuestFiles;
use crate::host::{Host, HostSpec};
use crate::lab::Lab;
use crate::lines::LineContent;
use crate::programs::{self, Programs};
use crate::run::Record;
use crate::tsc::Clocks;

/// Where the measuring program is in the host.
const PROGRAM: &str = "/bin/lab-scenarios";
/// How often a figure that counts instructions is tried again.
const MORE_TRIES: usize = 2;
/// How often each figure is measured.
const REPEATS: usize = 3;

/// The parts of the bench, by the names that a filter matches.
const PARTS: &[(&str, Part)] = &[
    ("memfd", |bench, report| {
        report.memfd = memfd::run(bench)?;
        Ok(())
    }),
    ("host_update", |bench, report| {
        report.host_update = update::run(bench)?;
        Ok(())
    }),
    ("homes", |bench, report| {
        report.homes = homes::run(bench)?;
        Ok(())
    }),
    ("lifeboat", |bench, report| {
        report.lifeboat = lifeboat::run(bench)?;
        Ok(())
    }),
    ("large", |bench, report| {
        let counting = bench.counting();
        report.large = large::run(&counting)?;
        bench.take_missing(&counting);
        Ok(())
    }),
    ("traffic", |bench, report| {
        report.host_update.extend(traffic::run(bench)?);
        Ok(())
    }),
    ("binary_upgrade", |bench, report| {
        report.binary_upgrade = binary::run(bench)?;
        Ok(())
    }),
    ("against_binary", |bench, report| {
        report.against.extend(against::run_binary(bench)?);
        Ok(())
    }),
    ("against_host", |bench, report| {
        report.against.extend(against::run_host(bench)?);
        Ok(())
    }),
    ("against_reads", |bench, report| {
        (report.against_reads, report.against_slow) = against_reads::run(bench)?;
        Ok(())
    }),
    ("seal_slowdown", |bench, report| {
        report.seal = seal::run(bench)?;
        report.seal_slowdown_percent = seal::worst(&report.seal);
        Ok(())
    }),
    ("floor", |bench, report| {
        report.floor = Some(floor::run(bench)?);
        Ok(())
    }),
];

type Part = fn(&Bench<'_>, &mut Report) -> Result<()>;

/// What every part of the bench needs.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    missing: RefCell<Vec<Missing>>,
    lab: &'a Lab,
    programs: Programs,
    quick: bool,
    repeats: usize,
    clocks: Clocks,
    /// The sizes to measure, if not the usual ones.
    ram: &'a [u64],
    /// The build to compare with, if there is one.
    other: Option<Other>,
    /// The VMM, if not this checkout's.
    vmm: Option<PathBuf>,
    /// What is set for a command that starts it, with a blank behind it.
    environment: String,
}

/// A missing figure, and the reason.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Missing {
    pub(crate) what: String,
    pub(crate) reason: String,
}

impl Bench<'_> {
    /// Measures something; an error costs only this figure.
    fn attempt<T>(&self, what: &str, measure: impl Fn() -> Result<T>) -> Option<T> {
        eprintln!("bench: {what}");
        let mut measured = measure();
        // With instruction counting QEMU leaves a guest's code more often, and may then deliver
        // an interrupt twice: docs/testing.md, quirks. It breaks the guest, but does not affect
        // the figure.
        let more = match self.clocks {
            Clocks::Instructions => MORE_TRIES,
            Clocks::Time => 0,
        };
        for _ in 0..more {
            let Err(error) = &measured else { break };
            eprintln!("bench: {what}: once more, after: {error:#}");
            measured = measure();
        }
        match measured {
            Ok(figure) => Some(figure),
            Err(error) => {
                let reason = format!("{error:#}");
                eprintln!("bench: {what}: {reason}");
                self.miss(what, &reason);
                None
            }
        }
    }

    /// The same bench with another VMM.
    fn with_vmm(&self, vmm: &Path, environment: String) -> Self {
        Self {
            missing: RefCell::default(),
            programs: self.programs.clone(),
            vmm: Some(vmm.to_owned()),
            environment,
            other: None,
            ..*self
        }
    }

    /// The same bench in hosts that count instructions.
    fn counting(&self) -> Self {
        Self {
            missing: RefCell::default(),
            programs: self.programs.clone(),
            vmm: self.vmm.clone(),
            environment: self.environment.clone(),
            other: None,
            clocks: Clocks::Instructions,
            ..*self
        }
    }

    fn take_missing(&self, of: &Self) {
        self.missing
            .borrow_mut()
            .append(&mut of.missing.borrow_mut());
    }

    /// A guest's files, and the VMM.
    fn guest(&self) -> Result<GuestFiles> {
        let mut files = GuestFiles::get(self.lab, &self.programs)?;
        if let Some(vmm) = &self.vmm {
            files.vmm.clone_from(vmm);
        }
        Ok(files)
    }

    fn miss(&self, what: &str, reason: &str) {
        self.missing.borrow_mut().push(Missing {
            what: what.to_owned(),
            reason: reason.lines().next().unwrap_or_default().to_owned(),
        });
    }

    /// The sizes to measure, out of the `usual` ones.
    fn sizes<'b>(&'b self, usual: &'b [u64]) -> &'b [u64] {
        match (self.ram, self.quick) {
            ([], true) => &usual[..1],
            ([], false) => usual,
            (wanted, _) => wanted,
        }
    }

    /// The measuring program, and its place in the host.
    fn scenarios(&self) -> (std::path::PathBuf, String) {
        (self.programs.path(programs::SCENARIOS), PROGRAM.to_owned())
    }

    fn boot(&self, spec: HostSpec) -> Result<Record> {
        self.judge(&spec.prepare(self.lab, &self.programs)?)
    }

    /// Runs a host to its end. A host that failed yields no figures.
    fn judge(&self, host: &Host) -> Result<Record> {
        let mut lines = Vec::new();
        let record = host.run(self.lab, |line| match &line.content {
            LineContent::Event(Event::Output { text, .. }) => lines.push(text.clone()),
            // Some hosts take many minutes.
            LineContent::Event(Event::Value { name, value }) => {
                eprintln!("bench: {name} {value}");
            }
            _ => {}
        })?;
        let failures = record.failures.iter();
        let mut wrong: Vec<String> = failures.map(ToString::to_string).collect();
        for (stage, command, status) in &record.exits {
            if *status != 0 {
                wrong.push(format!(
                    "Kernel {stage}, command {command}: exit status {status}"
                ));
            }
        }
        if !wrong.is_empty() {
            bail!(
                "{}\n{}\nLogs: {}",
                wrong.join("\n"),
                lines.join("\n"),
                host.dir.display()
            );
        }
        Ok(record)
    }
}

/// The values with this name, in the order in which they were sent.
fn values<T: DeserializeOwned>(record: &Record, name: &str) -> Result<Vec<T>> {
    let named = record.values.iter().filter(|value| value.name == name);
    let parsed = named.map(|value| serde_json::from_value(value.value.clone()));
    parsed
        .collect::<Result<_, _>>()
        .with_context(|| format!("The values {name}"))
}

pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    let lab = Lab::open()?;
    let parts: Vec<_> = PARTS
        .iter()
        .filter(|(name, _)| {
            let filters = &args.filters;
            filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
        })
        .collect();
    if parts.is_empty() {
        let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        bail!(
            "Nothing to measure has {} in its name: there are {}",
            args.filters.join(" or "),
            names.join(", ")
        );
    }
    let bench = Bench {
        lab: &lab,
        programs: lab.programs(&[
            programs::INIT,
            programs::SCENARIOS,
            programs::VMM,
            programs::WITNESS,
        ])?,
        missing: RefCell::default(),
        quick: args.quick,
        clocks: if args.instructions {
            Clocks::Instructions
        } else {
            Clocks::Time
        },
        ram: &args.ram,
        vmm: None,
        environment: String::new(),
        other: args
            .against
            .as_deref()
            .map(|what| Other::get(&lab, what))
            .transpose()?,
        repeats: args.repeats.unwrap_or(if args.quick { 1 } else { REPEATS }),
    };
    let mut report = Report::new(&bench)?;
    for (name, part) in parts {
        part(&bench, &mut report).with_context(|| format!("Measure {name}"))?;
    }
    report.missing = bench.missing.take();
    for table in report.tables() {
        println!("{}", table.text());
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("Write {}", path.display()))?;
    }
    if let Some(path) = &args.report {
        std::fs::write(path, html::page(&report))
            .with_context(|| format!("Write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
