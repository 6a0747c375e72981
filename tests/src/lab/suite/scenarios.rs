//! Tests that need a host: the scenarios of `lab-scenarios`, several per boot.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fdbox_lab::scenario::{HostKind, Listed};

use super::Suite;
use super::lanes::{Job, Needs};
use crate::cli::TestArgs;
use crate::lab::Lab;
use crate::programs;
use crate::progress::human;
use crate::run::Record;
use crate::scenario_host::{Group, OtherKernels, has_one_cpu_and_guest};
use crate::verdict::{Outcome, judge};
use crate::{command, hostcmd};

/// Scenarios that run only if they are asked for. They take minutes, and `debian/works` and
/// `guests/four-in-one-kexec` show most of what they show.
const ON_DEMAND: [&str; 7] = [
    "debian/5.10",
    "debian/6.1",
    "debian/boot",
    "debian/four-cpus",
    "debian/pressure",
    "debian/reboot",
    "guests/thirty-two",
];

/// One job per host.
pub(super) fn jobs<'a>(
    suite: &Suite<'a>,
    args: &'a TestArgs,
    guest_cpus: u32,
) -> Result<Vec<Job<'a>>> {
    let lab = suite.lab;
    let verbose = args.verbose;
    let is_asked_for = args.all || !args.filters.is_empty();
    let wanted = list(lab)?.into_iter().filter(|listed| {
        let in_turn = is_asked_for || !ON_DEMAND.contains(&listed.name.as_str());
        in_turn && suite.wants(&listed.name) && !listed.host.is_for_debug_only()
    });
    let job = |boot: Boot| Job {
        host: boot.name(),
        tests: boot.group.iter().map(|each| each.name.clone()).collect(),
        kernels: boot.kernels,
        // Its kernel takes as long to build as several hosts take to run, so it runs in turns.
        is_shared: !boot.kind.is_alone() && boot.kind != HostKind::Modular,
        needs: boot.needs(),
        alone: boot.kind.fills_the_machine(),
        act: Box::new(move || boot.outcomes(lab, verbose)),
    };
    let boots = boots(wanted.collect(), |kind| {
        args.cpus
            .or_else(|| has_one_cpu_and_guest(kind).then_some(guest_cpus))
    });
    Ok(boots.into_iter().map(job).collect())
}

/// The list comes from the program itself, which runs here as it does in the host.
pub(super) fn list(lab: &Lab) -> Result<Vec<Listed>> {
    let programs = lab.programs(&[programs::INIT, programs::SCENARIOS])?;
    let program = programs.path(programs::SCENARIOS);
    let text = command::output(Command::new(program).arg("list"))?;
    serde_json::from_str(&text).context("The list of lab-scenarios")
}

/// Scenarios that share one host.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) kind: HostKind,
    pub(super) kernels: usize,
    pub(super) group: Vec<Listed>,
    /// Whether it boots debug kernels.
    pub(super) debug: bool,
    /// Other kernels than those of its kind.
    pub(super) other: Option<OtherKernels>,
    /// As in [`Group`].
    pub(super) environment: &'static str,
    pub(super) cpus: Option<u32>,
}

fn boots(listed: Vec<Listed>, cpus: impl Fn(HostKind) -> Option<u32>) -> Vec<Boot> {
    let mut groups: BTreeMap<(HostKind, usize, String), Vec<Listed>> = BTreeMap::new();
    for scenario in listed {
        let alone = if scenario.host.is_alone() {
            scenario.name.clone()
        } else {
            String::new()
        };
        groups
            .entry((scenario.host, scenario.kernels, alone))
            .or_default()
            .push(scenario);
    }
    groups
        .into_iter()
        .map(|((kind, kernels, _), group)| Boot {
            kind,
            kernels,
            group,
            debug: false,
            other: None,
            environment: "",
            cpus: cpus(kind),
        })
        .collect()
}

impl Boot {
    /// The name under which its cost is recorded: the kind and the number of kernels if scenarios
    /// share it, because the list of scenarios changes.
    fn name(&self) -> String {
        if self.kind.is_alone() {
            return self.group[0].name.clone();
        }
        let kind = serde_json::to_value(self.kind).unwrap_or_default();
        format!("{}-{}", kind.as_str().unwrap_or_default(), self.kernels)
    }

    fn host(&self) -> Group<'_> {
        Group {
            kind: self.kind,
            kernels: self.kernels,
            names: self.group.iter().map(|each| each.name.as_str()).collect(),
            environment: self.environment.to_owned(),
            cpus: self.cpus,
            guests: if self.kind == HostKind::Guests { 4 } else { 1 },
            more_memory_mib: 0,
            debug: self.debug,
            other: self.other,
        }
    }

    /// What has to be built for it.
    pub(super) fn needs(&self) -> Needs {
        Needs {
            kernels: self.host().flavours(),
            programs: Some(self.kind),
            selftests: false,
        }
    }

    /// Boots the host and runs the scenarios. Also returns where the logs are.
    pub(super) fn run(&self, lab: &Lab, verbose: bool) -> Result<(Record, String)> {
        let started = Instant::now();
        let host = self.host().prepare(lab)?;
        let record = host.run(lab, |line| {
            if verbose {
                hostcmd::show(line);
            }
        })?;
        eprintln!(
            "host {:?}: {} in {}",
            self.kind,
            count(self.group.len()),
            human(started.elapsed())
        );
        for value in record.values.iter().filter(|value| value.name == "skipped") {
            eprintln!("skipped {}", value.value.as_str().unwrap_or_default());
        }
        Ok((record, host.dir.display().to_string()))
    }

    /// Each scenario's verdict. If the host could not be started, all scenarios fail.
    fn outcomes(&self, lab: &Lab, verbose: bool) -> Vec<Outcome> {
        let failed = |error: anyhow::Error| {
            let one = |listed: &Listed| Outcome {
                name: listed.name.clone(),
                error: Some(format!("{error:#}")),
                took: Duration::ZERO,
            };
            self.group.iter().map(one).collect()
        };
        self.judged(lab, verbose).unwrap_or_else(failed)
    }

    fn judged(&self, lab: &Lab, verbose: bool) -> Result<Vec<Outcome>> {
        let (record, logs) = self.run(lab, verbose)?;
        let judge = |(command, listed)| judge(listed, command, &record, &logs);
        Ok(self.group.iter().enumerate().map(judge).collect())
    }
}

fn count(scenarios: usize) -> String {
    match scenarios {
        1 => "1 scenario".to_owned(),
        many => format!("{many} scenarios"),
    }
}
