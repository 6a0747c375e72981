//! Tests that need a host: the scenarios of `lab-scenarios`, several per boot.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fdbox_lab::scenario::{HostKind, Listed};

use super::expected;
use super::lanes::{Job, Needs};
use super::{Outcome, Suite};
use crate::cli::TestArgs;
use crate::lab::Lab;
use crate::programs;
use crate::progress::human;
use crate::run::Record;
use crate::scenario_host::{Group, OtherKernels};
use crate::{command, hostcmd, proof};

/// Scenarios that run only if they are asked for. They take minutes, and `debian/works` shows most of what they show.
const ON_DEMAND: [&str; 5] = [
    "debian/5.10",
    "debian/6.1",
    "debian/boot",
    "debian/four-cpus",
    "debian/reboot",
];

/// One job per host.
pub(super) fn jobs<'a>(suite: &Suite<'a>, args: &'a TestArgs) -> Result<Vec<Job<'a>>> {
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
    Ok(boots(wanted.collect()).into_iter().map(job).collect())
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
}

fn boots(listed: Vec<Listed>) -> Vec<Boot> {
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

/// The errors of a scenario's stages, and how long they took.
pub(super) fn stage_errors(listed: &Listed, record: &Record) -> (Vec<String>, Duration) {
    let mut errors = Vec::new();
    let mut took = Duration::ZERO;
    for stage in 1..=listed.kernels {
        let ends = record
            .scenarios
            .iter()
            .filter(|s| s.name == listed.name && s.stage == stage);
        match ends.collect::<Vec<_>>().as_slice() {
            [end] => {
                took += Duration::from_millis(end.millis);
                errors.extend(
                    end.error
                        .iter()
                        .map(|error| format!("Kernel {stage}: {error}")),
                );
            }
            // The scenario's own jump ended it; every host is checked for the arrival in the next
            // kernel.
            [] if listed.host.jumps() && stage < listed.kernels => {}
            ends => errors.push(format!("Kernel {stage}: it ended {} times", ends.len())),
        }
    }
    (errors, took)
}

/// A scenario passes if each of its stages succeeded and nothing else went wrong with the host
/// meanwhile: `command` is its number in each stage's plan.
pub(super) fn judge(listed: &Listed, command: usize, record: &Record, logs: &str) -> Outcome {
    let (mut errors, mut took) = stage_errors(listed, record);
    let mine = |during: Option<(usize, usize)>| during.is_none_or(|(_, other)| other == command);
    let failures = record
        .failures
        .iter()
        .filter(|failure| mine(failure.during) && !expected::is(&listed.name, &failure.text));
    errors.extend(failures.map(ToString::to_string));
    // The scenario itself judges a guest that had no witness when its host was updated, and says so.
    let boots = record.values.iter().any(|value| value.name == "boots");
    if listed.host.compares_updates() && !boots && errors.is_empty() {
        let updates = match listed.host {
            // Each guest had its own update.
            kind if kind.has_fleet() => proof::of_guests(record).map(|guests| {
                let all = guests.into_iter().map(|(_, update)| update);
                all.take(listed.kernels - 1).collect()
            }),
            _ => proof::updates(record),
        };
        match updates {
            Ok(updates) if updates.len() + 1 == listed.kernels => {}
            Ok(updates) => errors.push(format!("{} updates were seen", updates.len())),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    let upgraded = |record: &Record| record.values.iter().any(|value| value.name == "resume");
    if errors.is_empty() && listed.host.is_alone() && !listed.host.jumps() && upgraded(record) {
        // The VMM was replaced: what the guest noticed of that counts as well.
        match proof::updates_in_a_crowd(record) {
            Ok(updates) if updates.len() == 1 => {}
            Ok(updates) => errors.push(format!("{} upgrades were seen", updates.len())),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    if errors.is_empty() && listed.host.is_alone() && !listed.host.jumps() {
        errors.extend(
            proof::all_traffic(record)
                .err()
                .map(|error| format!("{error:#}")),
        );
    }
    if let (true, Some((first, _)), Some(end)) =
        (listed.host.jumps(), record.hellos.first(), record.ended)
    {
        took = end.saturating_sub(*first);
    }
    let error = (!errors.is_empty()).then(|| format!("{}\nLogs: {logs}", errors.join("\n")));
    Outcome {
        name: listed.name.clone(),
        error,
        took,
    }
}

#[cfg(test)]
mod tests {
    use fdbox_lab::scenario::Debian;

    use super::*;
    use crate::run::{RunFailure, ScenarioStage, Value};

    fn listed(kernels: usize) -> Listed {
        Listed {
            name: "a/b".into(),
            about: String::new(),
            host: HostKind::Kexec,
            kernels,
        }
    }

    fn stage(stage: usize, error: Option<&str>) -> ScenarioStage {
        let error = error.map(str::to_owned);
        ScenarioStage {
            name: "a/b".into(),
            stage,
            error,
            millis: 5,
        }
    }

    #[test]
    fn a_scenario_needs_every_stage() {
        let mut record = Record::default();
        assert!(judge(&listed(2), 1, &record, "").error.is_some());
        record.scenarios = vec![stage(1, None)];
        assert!(judge(&listed(2), 1, &record, "").error.is_some());
        record.scenarios.push(stage(2, None));
        let outcome = judge(&listed(2), 1, &record, "");
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.took, Duration::from_millis(10));
    }

    #[test]
    fn updates_must_be_seen_unless_the_guest_boots() {
        let mut listed = listed(2);
        listed.host = HostKind::Debian(Debian::Trixie);
        let mut record = Record::default();
        record.scenarios = vec![stage(2, None)];
        assert!(judge(&listed, 1, &record, "").error.is_some());
        record.values.push(Value {
            at: Duration::ZERO,
            name: "boots".into(),
            value: true.into(),
        });
        assert_eq!(judge(&listed, 1, &record, "").error, None);
    }

    #[test]
    fn a_failed_stage_or_host_fails_it() {
        let mut record = Record::default();
        record.scenarios = vec![stage(1, None), stage(2, Some("wrong"))];
        assert!(
            judge(&listed(2), 1, &record, "")
                .error
                .unwrap()
                .contains("Kernel 2: wrong")
        );
        record.scenarios[1].error = None;
        let failure = |during| RunFailure {
            text: "BUG: x".into(),
            during,
        };
        record.failures = vec![failure(Some((1, 0)))];
        assert_eq!(
            judge(&listed(2), 1, &record, "").error,
            None,
            "another's failure"
        );
        record.failures = vec![failure(Some((1, 1)))];
        assert!(judge(&listed(2), 1, &record, "").error.is_some());
        record.failures = vec![failure(None)];
        assert!(
            judge(&listed(2), 1, &record, "/logs")
                .error
                .unwrap()
                .contains("/logs")
        );
    }
}
