//! `cargo lab fuzz`: runs fuzz targets, built with the compiler's coverage counters. docs/testing.md describes them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

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

/// The tests that contain a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tests {
    /// The library's.
    Library,
    /// The VMM's.
    Vmm,
    /// The lab's, for the module.
    Lab,
}

impl Tests {
    /// cargo's arguments for building them.
    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Library => ["--package", "vmm-fdbox", "--lib", "--quiet"],
            Self::Vmm => ["--package", "vmm-example", "--bin", "vmm-example"],
            Self::Lab => ["--package", "fdbox-lab", "--lib", "--quiet"],
        }
    }
}

/// A target: its name, its tests, the module that it is in, and what it reads.
type Target = (&'static str, Tests, &'static str, &'static str);

const TARGETS: [Target; 22] = [
    (
        "frame",
        Tests::Library,
        "frame::tests",
        "the frame of a VM's state",
    ),
    (
        "timeline",
        Tests::Library,
        "timeline::tests",
        "the timeline that crosses a kexec",
    ),
    (
        "member",
        Tests::Library,
        "member::wire::tests",
        "the messages between coordinator and VMMs",
    ),
    (
        "keeper",
        Tests::Library,
        "keeper::wire::tests",
        "the packets between keeper and VMMs",
    ),
    (
        "directory",
        Tests::Library,
        "keeper::directory::tests",
        "what a keeper leaves for the next one",
    ),
    (
        "bzimage",
        Tests::Library,
        "kexec::image::tests",
        "the check of a kernel image",
    ),
    (
        "state",
        Tests::Vmm,
        "guest::state::tests",
        "each section of a guest's state",
    ),
    (
        "virtio-state",
        Tests::Vmm,
        "devices::virtio::tests",
        "a virtio device's state, and the device with it",
    ),
    (
        "pci-state",
        Tests::Vmm,
        "devices::vfio::function::tests::fuzz",
        "a PCI device's state, and the device with it",
    ),
    (
        "api",
        Tests::Vmm,
        "service::api::protocol::tests",
        "the VMM's API",
    ),
    ("specs", Tests::Vmm, "cli::tests", "the values of options"),
    (
        "config",
        Tests::Vmm,
        "cli::config::tests",
        "the configuration file",
    ),
    (
        "virtio-block",
        Tests::Vmm,
        "devices::virtio::block::tests::fuzz",
        "a guest that drives a disk, and the host's answers",
    ),
    (
        "virtio-net",
        Tests::Vmm,
        "devices::virtio::net::tests",
        "the same for a network card",
    ),
    (
        "virtio-console",
        Tests::Vmm,
        "devices::virtio::console::tests",
        "the same for a console",
    ),
    (
        "virtio-vsock",
        Tests::Vmm,
        "devices::virtio::vsock::tests",
        "the same for sockets",
    ),
    (
        "virtio-rng",
        Tests::Vmm,
        "devices::virtio::tests",
        "the same for an entropy source",
    ),
    (
        "pci",
        Tests::Vmm,
        "devices::vfio::function::tests::fuzz",
        "a guest's use of configuration space, BARs and MSI-X",
    ),
    (
        "handover",
        Tests::Lab,
        "handover_fuzz",
        "a handover as the module reads it",
    ),
    (
        "handover-body",
        Tests::Lab,
        "handover_fuzz",
        "the same with the checksums that it should have",
    ),
    (
        "handover-fd",
        Tests::Lab,
        "handover_fuzz",
        "what each kind of file leaves for the next kernel",
    ),
    (
        "broken-memory",
        Tests::Lab,
        "handover_fuzz",
        "the list of broken pages",
    ),
];

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

fn chosen(names: &[String]) -> Result<Vec<Target>> {
    if names.is_empty() {
        return Ok(TARGETS.to_vec());
    }
    let target = |name: &String| {
        let found = TARGETS.into_iter().find(|(of, ..)| of == name);
        found.with_context(|| format!("There is no target {name}: see --list"))
    };
    names.iter().map(target).collect()
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

fn test_of(module: &str, name: &str) -> String {
    format!("{module}::fuzz_{}", name.replace('-', "_"))
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

    /// The functions of the sources whose names say that they are targets.
    fn in_sources() -> BTreeSet<String> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = BTreeSet::new();
        for dir in ["vmm-fdbox/src", "vmm-example/src", "tests/src"] {
            for path in crate::files::sources(&checkout.join(dir)).unwrap() {
                let Ok(text) = std::fs::read_to_string(&path) else {
                    continue;
                };
                let names = text
                    .lines()
                    .filter_map(|line| line.trim().strip_prefix("fn fuzz_"));
                found.extend(names.filter_map(|name| Some(name.split_once("()")?.0.to_owned())));
            }
        }
        found
    }

    #[test]
    fn every_target_is_listed_once() {
        let listed: Vec<String> = TARGETS
            .iter()
            .map(|(name, ..)| name.replace('-', "_"))
            .collect();
        let as_set: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(as_set.len(), listed.len());
        assert_eq!(as_set, in_sources());
        assert_eq!(test_of("cli::tests", "a-b"), "cli::tests::fuzz_a_b");
    }

    #[test]
    fn an_unknown_target_is_refused() {
        assert_eq!(chosen(&[]).unwrap().len(), TARGETS.len());
        assert!(chosen(&["pci".to_owned()]).is_ok());
        assert!(chosen(&["pcj".to_owned()]).is_err());
    }

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
