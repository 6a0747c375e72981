//! `cargo lab fuzz`: runs fuzz targets, built with the compiler's coverage counters. docs/testing.md describes them.

mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use self::targets::{TARGETS, Target, Tests, chosen, test_of};
use crate::bench::table::Table;
use crate::cache::Cache;
use crate::cli::FuzzArgs;
use crate::command;
use crate::lab::checkout;
use crate::progress::{Progress, say};

/// The variable that makes a target run for so many seconds.
const SECONDS: &str = "FDBOX_FUZZ_SECONDS";

/// With a target, cargo does not apply flags to build scripts, which cannot be linked with these.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Counters for each edge, which a stable compiler can add as well.
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters";
/// The address space of a target, in KiB: a length in an input must not become memory.
const MEMORY_KIB: u64 = 8 << 20;

/// What a target reports at its end.
#[derive(Debug, Deserialize)]
struct Report {
    target: String,
    executions: u64,
    seconds: u64,
    /// Coverage counters that have counted something.
    covered: usize,
    /// All coverage counters of the program.
    counters: usize,
    inputs: usize,
}

pub(crate) fn run(args: &FuzzArgs) -> Result<ExitCode> {
    if args.list {
        for (name, _, _, about) in TARGETS {
            println!("{name:16} {about}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let targets = chosen(&args.targets)?;
    ensure!(
        args.replay.is_none() || args.targets.len() == 1,
        "Name the target that the input is for"
    );
    let fuzzer = Fuzzer {
        cache: Cache::open()?,
        checkout: checkout()?,
        args,
    };
    fuzzer.build(&targets)?;
    let mut reports = Vec::new();
    let mut failures = Vec::new();
    for target in &targets {
        match fuzzer.run(target)? {
            Ok(report) => reports.extend(report),
            Err(failure) => failures.push(failure),
        }
    }
    if !reports.is_empty() {
        println!("{}", table(&reports).text());
    }
    failures.iter().for_each(|failure| println!("{failure}"));
    Ok(match failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

struct Fuzzer<'a> {
    cache: Cache,
    checkout: PathBuf,
    args: &'a FuzzArgs,
}

impl Fuzzer<'_> {
    fn build(&self, targets: &[Target]) -> Result<()> {
        let log = self.cache.dir("logs")?.join("fuzz.log");
        for tests in [Tests::Library, Tests::Vmm, Tests::Lab] {
            if targets.iter().all(|(_, of, ..)| *of != tests) {
                continue;
            }
            let mut progress = Progress::start(&format!("Fuzz targets of {tests:?}"), None);
            let mut cargo = self.cargo(tests)?;
            command::counted(cargo.arg("--no-run"), &log, &mut progress)?;
            progress.done();
        }
        Ok(())
    }

    fn cargo(&self, tests: Tests) -> Result<Command> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.current_dir(&self.checkout).arg("test");
        cargo.args(["--profile", "fuzz", "--locked", "--target", TARGET]);
        cargo
            .arg("--target-dir")
            .arg(self.cache.dir("target-fuzz")?);
        cargo.args(tests.arguments());
        cargo
            .env_remove("CARGO_MANIFEST_DIR")
            .env("RUSTFLAGS", RUSTFLAGS);
        Ok(cargo)
    }

    /// Runs a target, and returns its report, or what to say of an input that failed.
    fn run(&self, (name, tests, module, _): &Target) -> Result<Result<Option<Report>, String>> {
        let dir = self.cache.dir("fuzz")?.join(name);
        let before = crashes(&dir);
        let cargo = self.cargo(*tests)?;
        let limited = format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"");
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(limited).arg(cargo.get_program());
        sh.args(cargo.get_args()).current_dir(&self.checkout);
        for (variable, value) in cargo.get_envs() {
            match value {
                Some(value) => sh.env(variable, value),
                None => sh.env_remove(variable),
            };
        }
        sh.args(["--", "--exact", "--nocapture"])
            .arg(test_of(module, name));
        match &self.args.replay {
            Some(path) => sh.env("FDBOX_FUZZ_REPLAY", std::path::absolute(path)?),
            None => sh.env("FDBOX_FUZZ_DIR", &dir),
        };
        sh.env(SECONDS, (self.args.minutes * 60.0).ceil().to_string());
        sh.env("FDBOX_FUZZ_SEED", self.args.seed.to_string());
        if self.args.save {
            sh.env("FDBOX_FUZZ_SAVE", "1");
        }
        say(&format!("{name}:"));
        let status = sh.status().context("Run cargo")?;
        if status.success() {
            return Ok(Ok(match self.args.replay {
                Some(_) => None,
                None => Some(serde_json::from_slice(&std::fs::read(
                    dir.join("report.json"),
                )?)?),
            }));
        }
        if self.args.replay.is_some() {
            return Ok(Err(format!("{name} fails with this input")));
        }
        let new = crashes(&dir).difference(&before).next().cloned();
        let path = match new {
            Some(path) => path,
            None => died(&dir).with_context(|| format!("{name} ended with {status}"))?,
        };
        let path = path.display();
        let replay = format!("cargo lab fuzz {name} --replay {path}");
        Ok(Err(format!("{name} FAILED. To replay it: {replay}")))
    }
}

fn crashes(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_crash = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("crash-")
    };
    entries.map(|entry| entry.path()).filter(is_crash).collect()
}

/// The input during which the process died: its length, and then itself. Kept by another name.
fn died(dir: &Path) -> Result<PathBuf> {
    let record = std::fs::read(dir.join("current")).context("Read the last input")?;
    let Some((len, rest)) = record.split_first_chunk() else {
        bail!("There was no input");
    };
    let len = usize::try_from(u64::from_le_bytes(*len))?;
    let path = dir.join("crash-died");
    std::fs::write(&path, rest.get(..len).context("The last input is cut off")?)?;
    Ok(path)
}

fn table(reports: &[Report]) -> Table {
    let heads = [
        "target",
        "executions",
        "seconds",
        "a second",
        "code reached",
        "inputs",
    ];
    let mut table = Table::new("Fuzzed", &heads);
    for report in reports {
        table.add([
            report.target.clone(),
            report.executions.to_string(),
            report.seconds.to_string(),
            (report.executions / report.seconds.max(1)).to_string(),
            format!("{} of {}", report.covered, report.counters),
            report.inputs.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_of_a_process_that_died_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert!(died(dir.path()).is_err());
        std::fs::write(dir.path().join("current"), b"\x03\0\0\0\0\0\0\0evil").unwrap();
        let path = died(dir.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"evi");
        assert_eq!(crashes(dir.path()), [path].into());
    }
}
