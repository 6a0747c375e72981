//! The kernel's own selftests: they pass in the patched kernels as they do in the unpatched one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Outcome, Suite};
use crate::host::{Ending, HostSpec, StageSpec};
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::run::Record;
use crate::selftests::{self, FOLDER};
use crate::{hostcmd, programs};

/// (name of the test here, command in the first kernel, command in the second).
const TESTS: &[(&str, &str, Option<&str>)] = &[
    ("selftests/guest_memfd", "guest_memfd_test", None),
    ("selftests/pre_fault_memory", "pre_fault_memory_test", None),
    ("selftests/liveupdate", "liveupdate", None),
    // Last: it leaves a process behind that holds what is preserved.
    (
        "selftests/luo_kexec",
        "luo_kexec_simple -s 1",
        Some("luo_kexec_simple -s 2"),
    ),
];

const STAGE_LIMIT: Duration = Duration::from_secs(240);

pub(super) fn run(suite: &mut Suite<'_>, verbose: bool) {
    if !TESTS.iter().any(|(name, ..)| suite.wants(name)) {
        return;
    }
    let started = Instant::now();
    let both = boot(suite.lab, [Flavour::Stock, Flavour::Stock], &[], verbose).and_then(|stock| {
        Ok((
            stock,
            boot(suite.lab, [Flavour::A, Flavour::B], &["fdbox"], verbose)?,
        ))
    });
    let took = started.elapsed() / TESTS.len() as u32;
    for (index, (name, ..)) in TESTS.iter().enumerate() {
        if !suite.wants(name) {
            continue;
        }
        let error = match &both {
            Ok((stock, patched)) => compare(index, stock, patched).err(),
            Err(error) => Some(anyhow::anyhow!("{error:#}")),
        };
        let error = error.map(|error| format!("{error:#}"));
        suite.add(Outcome {
            name: (*name).to_owned(),
            error,
            took,
        });
    }
}

/// Runs all of them in a pair of kernels.
fn boot(lab: &Lab, kernels: [Flavour; 2], modules: &[&str], verbose: bool) -> Result<Record> {
    let source = lab.kernels()?.source;
    let files: Vec<(PathBuf, String)> = selftests::get(&lab.cache, &lab.toolchain, &source)?;
    let command = |command: &str| format!("{FOLDER}/{command}");
    let stage = |kernel, commands: Vec<String>, then| StageSpec {
        kernel,
        modules: modules.iter().map(|module| (*module).to_owned()).collect(),
        commands,
        files: Vec::new(),
        then,
    };
    let first = TESTS.iter().map(|(_, first, _)| command(first)).collect();
    let second = TESTS
        .iter()
        .map(|(_, _, second)| second.map_or("true".into(), command))
        .collect();
    let spec = HostSpec {
        guests: 0,
        name: format!("selftests-{:?}", kernels[0]),
        memory_mib: 2048,
        cpus: 1,
        cmdline: String::new(),
        files,
        with_modules: !modules.is_empty(),
        nics: 0,
        scalable: false,
        stages: vec![
            stage(kernels[0], first, Ending::Kexec),
            stage(kernels[1], second, Ending::PowerOff),
        ],
        stage_limit: STAGE_LIMIT,
    };
    let host = spec.prepare(lab, &lab.programs(&[programs::INIT])?)?;
    host.run(lab, |line| {
        if verbose {
            hostcmd::show(line);
        }
    })
}

/// Test number `index` must have passed in both, and have skipped no more in the patched kernels.
fn compare(index: usize, stock: &Record, patched: &Record) -> Result<()> {
    for (which, record) in [("unpatched", stock), ("patched", patched)] {
        let failures = record
            .failures
            .iter()
            .filter(|f| f.during.is_none_or(|(_, c)| c == index));
        let failures: Vec<_> = failures.map(ToString::to_string).collect();
        ensure!(
            failures.is_empty(),
            "In the {which} kernels: {}",
            failures.join("\n")
        );
        for stage in [1, 2] {
            let exit = record
                .exits
                .iter()
                .find(|exit| (exit.0, exit.1) == (stage, index));
            let status = exit.map(|(_, _, status)| *status);
            ensure!(
                status == Some(0),
                "In the {which} kernels, stage {stage}: exit status {status:?}\n{}",
                record.output_of(stage, index).join("\n")
            );
        }
    }
    let (stock, patched) = (stock.output_of(1, index), patched.output_of(1, index));
    ensure!(
        totals(&stock) == totals(&patched),
        "Unpatched: {:?}, patched: {:?}",
        totals(&stock),
        totals(&patched)
    );
    Ok(())
}

/// What a test says it did not do, and how it counts.
fn totals(output: &[&str]) -> Vec<String> {
    let telling = |line: &&&str| line.contains("Totals:") || line.to_lowercase().contains("skip");
    output
        .iter()
        .filter(telling)
        .map(|line| (**line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run in which every test said `line` and ended with `status`.
    fn record(status: i32, line: &str) -> Record {
        let mut record = Record::default();
        for stage in [1, 2] {
            for index in 0..TESTS.len() {
                record.exits.push((stage, index, status));
                record.output.push((Some((stage, index)), line.to_owned()));
            }
        }
        record
    }

    #[test]
    fn both_kernels_must_pass_alike() {
        let good = record(0, "# Totals: pass:15 fail:0 skip:0");
        compare(0, &good, &good).unwrap();
        assert!(compare(0, &good, &record(1, "# Totals: pass:15 fail:0 skip:0")).is_err());
        assert!(compare(0, &record(4, "SKIP"), &good).is_err());
        assert!(compare(0, &good, &record(0, "# Totals: pass:14 fail:0 skip:1")).is_err());
        assert!(compare(0, &good, &Record::default()).is_err());
    }
}
