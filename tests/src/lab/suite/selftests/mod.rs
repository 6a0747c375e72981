//! The kernel's own selftests: they pass in the patched kernels as they do in the unpatched one.
//!
//! If a test passes in the patched kernels and skips nothing except what no kernel with these
//! options supports, the unpatched kernel cannot do better, and is not tried. Otherwise the results
//! in both must be the same.

mod hosts;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::hosts::{HOSTS, Host, Test};
use super::Suite;
use super::lanes::{Job, Needs};
use crate::host::{Ending, HostSpec, StageSpec};
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::run::Record;
use crate::selftests::{self, FOLDER};
use crate::tsc::Clocks;
use crate::verdict::{Outcome, is_expected};
use crate::{hostcmd, programs};

/// With fault injection under lockdep, on a machine half as fast as usual.
const STAGE_LIMIT: Duration = Duration::from_secs(600);
/// The number of the first test's command in a stage's plan: the set-up comes before.
const FIRST: usize = 1;

/// One job for each host with a requested test.
pub(super) fn jobs<'a>(suite: &Suite<'a>, verbose: bool) -> Vec<Job<'a>> {
    let lab = suite.lab;
    let job = |(host, wanted): (&'static Host, Vec<usize>)| Job {
        host: format!("selftests/{}", host.name),
        tests: wanted
            .iter()
            .map(|index| host.tests[*index].name.to_owned())
            .collect(),
        kernels: host.patched.len(),
        is_shared: false,
        needs: Needs {
            kernels: host.patched.to_vec(),
            selftests: true,
            ..Needs::default()
        },
        alone: false,
        act: Box::new(move || outcomes(lab, host, &wanted, verbose)),
    };
    wanted(suite).map(job).collect()
}

/// The hosts with requested tests, and the numbers of these tests.
fn wanted(suite: &Suite<'_>) -> impl Iterator<Item = (&'static Host, Vec<usize>)> {
    HOSTS.iter().filter_map(|host| {
        let is_wanted = |index: &usize| suite.wants(host.tests[*index].name);
        let wanted: Vec<usize> = (0..host.tests.len()).filter(is_wanted).collect();
        (!wanted.is_empty()).then_some((host, wanted))
    })
}

fn outcomes(lab: &Lab, host: &Host, wanted: &[usize], verbose: bool) -> Vec<Outcome> {
    let started = Instant::now();
    let tests: Vec<_> = wanted
        .iter()
        .map(|index| (&host.tests[*index], FIRST + index))
        .collect();
    let errors = errors(lab, host, &tests, verbose);
    let took = started.elapsed() / host.tests.len() as u32;
    let outcome = |(index, (test, _)): (usize, &(&Test, usize))| Outcome {
        name: test.name.to_owned(),
        error: match &errors {
            Ok(errors) => errors[index].clone(),
            Err(error) => Some(format!("{error:#}")),
        },
        took,
    };
    tests.iter().enumerate().map(outcome).collect()
}

/// What is wrong with each of these tests, which are given with the numbers of their commands.
fn errors(
    lab: &Lab,
    host: &Host,
    tests: &[(&Test, usize)],
    verbose: bool,
) -> Result<Vec<Option<String>>> {
    let patched = boot(lab, host, host.patched, &["fdbox"], verbose)?;
    let unasked = |(test, command): &(&Test, usize)| is_complete(test, *command, &patched);
    if tests.iter().all(unasked) {
        return Ok(vec![None; tests.len()]);
    }
    let unpatched = boot(lab, host, host.unpatched, &[], verbose)?;
    let both = [("unpatched", unpatched), ("patched", patched)];
    let error = |(test, command): &(&Test, usize)| compare(test, *command, &both).err();
    let errors = tests.iter().map(error);
    Ok(errors
        .map(|error| error.map(|error| format!("{error:#}")))
        .collect())
}

/// Runs all tests of a host in these kernels.
fn boot(
    lab: &Lab,
    host: &Host,
    kernels: &[Flavour],
    modules: &[&str],
    verbose: bool,
) -> Result<Record> {
    let source = lab.kernels()?.source;
    let stage = |(index, kernel): (usize, &Flavour)| StageSpec {
        kernel: *kernel,
        modules: modules.iter().map(|module| (*module).to_owned()).collect(),
        commands: commands(host, index),
        files: Vec::new(),
        then: match index + 1 == kernels.len() {
            true => Ending::PowerOff,
            false => Ending::Kexec,
        },
    };
    let spec = HostSpec {
        guests: 0,
        name: format!("selftests-{}-{:?}", host.name, kernels[0]),
        memory_mib: host.memory_mib,
        cpus: 1,
        cmdline: host.cmdline.to_owned(),
        files: selftests::get(&lab.cache, &lab.toolchain, &source)?,
        with_modules: !modules.is_empty(),
        devices: host.devices,
        stages: kernels.iter().enumerate().map(stage).collect(),
        stage_limit: STAGE_LIMIT,
        clocks: Clocks::Time,
    };
    let host = spec.prepare(lab, &lab.programs(&[programs::INIT])?)?;
    host.run(lab, |line| {
        if verbose {
            hostcmd::show(line);
        }
    })
}

/// The commands for kernel `stage` (from 0): the set-up of the host, then one command per test.
fn commands(host: &Host, stage: usize) -> Vec<String> {
    let of_test = |test: &Test| match test.commands.get(stage) {
        Some(command) => format!("cd {FOLDER} && {command}"),
        None => "true".to_owned(),
    };
    let set_up = if stage == 0 { host.set_up } else { "true" };
    let tests = host.tests.iter().map(of_test);
    std::iter::once(set_up.to_owned()).chain(tests).collect()
}

/// Whether a test, whose command has the number `command`, passed and skipped nothing without a
/// reason.
fn is_complete(test: &Test, command: usize, record: &Record) -> bool {
    passed(test, command, record).is_ok()
        && (1..=test.commands.len()).all(|stage| {
            skips_are_known(test.leaves_out, &totals(&record.output_of(stage, command)))
        })
}

/// Whether everything that a test skipped is among the `known`, and every skip that it counted was
/// reported.
fn skips_are_known(known: &[&str], output: &[String]) -> bool {
    let counted = |line: &str| -> Option<usize> {
        line.split_once(" skip:")?.1.split(' ').next()?.parse().ok()
    };
    let is_sum = |line: &str| line.contains(" skipped test(s) detected");
    let skips = |line: &&String| counted(line).is_none() && !is_sum(line) && tells_of_skip(line);
    let counts = output.iter().filter_map(|line| counted(line));
    let lines = output.iter().filter(|line| line.contains("# SKIP"));
    let is_known = |line: &String| known.iter().any(|known| line.contains(known));
    counts.sum::<usize>() == lines.count() && output.iter().filter(skips).all(is_known)
}

fn tells_of_skip(line: &str) -> bool {
    line.to_lowercase().contains("skip")
}

/// A test, whose command has the number `command`, must have passed in both kernels, and have
/// skipped no more in the patched one.
fn compare(test: &Test, command: usize, both: &[(&str, Record); 2]) -> Result<()> {
    for (which, record) in both {
        passed(test, command, record).with_context(|| format!("In the {which} kernels"))?;
    }
    let [unpatched, patched] = [0, 1].map(|which| totals(&both[which].1.output_of(1, command)));
    ensure!(
        unpatched == patched,
        "Unpatched: {unpatched:?}, patched: {patched:?}"
    );
    Ok(())
}

/// The test and the set-up of its host succeeded, and no kernel complained meanwhile.
fn passed(test: &Test, command: usize, record: &Record) -> Result<()> {
    let its = |number: usize| number < FIRST || number == command;
    let failures = record
        .failures
        .iter()
        .filter(|failure| failure.during.is_none_or(|(_, number)| its(number)))
        .filter(|failure| !is_expected(test.name, &failure.text));
    let failures: Vec<_> = failures.map(ToString::to_string).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    for stage in 1..=test.commands.len() {
        for number in (0..FIRST).chain([command]) {
            let exit = record
                .exits
                .iter()
                .find(|exit| (exit.0, exit.1) == (stage, number));
            let status = exit.map(|(_, _, status)| *status);
            ensure!(
                status == Some(0),
                "Kernel {stage}: exit status {status:?}\n{}",
                record.output_of(stage, number).join("\n")
            );
        }
    }
    Ok(())
}

/// What a test reports to have skipped, and its counts.
fn totals(output: &[&str]) -> Vec<String> {
    let telling = |line: &&&str| line.contains("Totals:") || tells_of_skip(line);
    output
        .iter()
        .filter(telling)
        .map(|line| (**line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: Test = Test {
        name: "selftests/x",
        commands: &["./x", "./x again"],
        leaves_out: &["no vx here"],
    };
    const GOOD: &str = "# Totals: pass:15 fail:0 skip:0";

    /// A run in which every command printed `line` and exited with `status`.
    fn record(status: i32, line: &str) -> Record {
        let mut record = Record::default();
        for stage in [1, 2] {
            for command in [0, FIRST, FIRST + 1] {
                record.exits.push((stage, command, status));
                record
                    .output
                    .push((Some((stage, command)), line.to_owned()));
            }
        }
        record
    }

    fn judge(unpatched: Record, patched: Record) -> Result<()> {
        let both = [("unpatched", unpatched), ("patched", patched)];
        compare(&TEST, FIRST, &both)
    }

    #[test]
    fn both_kernels_must_pass_alike() {
        let good = || record(0, GOOD);
        judge(good(), good()).unwrap();
        assert!(judge(good(), record(1, GOOD)).is_err());
        assert!(judge(record(4, "SKIP"), good()).is_err());
        assert!(judge(good(), record(0, "# Totals: pass:14 fail:0 skip:1")).is_err());
        assert!(judge(good(), Record::default()).is_err());
    }

    #[test]
    fn who_skips_or_fails_is_compared_with_the_unpatched_kernel() {
        let is_complete = |record| is_complete(&TEST, FIRST, &record);
        assert!(is_complete(record(0, GOOD)));
        assert!(is_complete(record(0, "ok 3 a test without totals")));
        assert!(!is_complete(record(1, GOOD)));
        assert!(!is_complete(record(0, "# Totals: pass:14 fail:0 skip:1")));
        assert!(!is_complete(record(0, "# Totals: pass:5 fail:0 skip:10")));
        assert!(!is_complete(record(0, "ok 3 # SKIP no huge pages")));
        assert!(is_complete(record(0, "Skipped: no vx here")));
        assert!(!is_complete(Record::default()));
    }

    #[test]
    fn only_known_skips_need_no_comparison() {
        let are_known = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
            skips_are_known(&["no vx here"], &lines)
        };
        let (one, sum) = ("ok 7 a # SKIP no vx here", "# 1 skipped test(s) detected.");
        assert!(are_known(&[
            one,
            sum,
            "# Totals: pass:6 fail:0 skip:1 error:0"
        ]));
        assert!(!are_known(&[
            one,
            sum,
            "# Totals: pass:5 fail:0 skip:2 error:0"
        ]));
        assert!(!are_known(&[
            "ok 7 a # SKIP no vy",
            "# Totals: pass:6 fail:0 skip:1"
        ]));
        assert!(!are_known(&["Skipping tests for vy"]));
    }

    #[test]
    fn a_host_that_was_not_set_up_fails_its_tests() {
        let mut broken = record(0, GOOD);
        broken.exits[0].2 = 1;
        assert!(judge(broken, record(0, GOOD)).is_err());
    }

    #[test]
    fn what_a_kernel_says_during_another_test_is_not_this_ones() {
        let complains = |command| {
            let mut record = record(0, GOOD);
            record.failures.push(crate::run::RunFailure {
                text: "BUG: x".into(),
                during: Some((1, command)),
            });
            record
        };
        judge(record(0, GOOD), complains(FIRST + 1)).unwrap();
        assert!(judge(record(0, GOOD), complains(FIRST)).is_err());
        assert!(judge(record(0, GOOD), complains(0)).is_err());
    }

    #[test]
    fn every_kernel_of_a_host_has_its_commands() {
        for host in HOSTS {
            assert_eq!(host.unpatched.len(), host.patched.len());
            for test in host.tests {
                assert!((1..=host.patched.len()).contains(&test.commands.len()));
            }
            let second = commands(host, 1);
            assert_eq!(second.len(), FIRST + host.tests.len());
            assert_eq!(second[0], "true", "set up once");
        }
    }
}
