//! Whether a scenario passed: what its stages reported, what went wrong with its host, and what its guests noticed.

mod expected;

use std::time::Duration;

use anyhow::Result;
use fdbox_lab::scenario::Listed;
use fdbox_lab::soak;

pub(crate) use self::expected::is as is_expected;
use crate::proof;
use crate::run::Record;

/// One test's verdict.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) error: Option<String>,
    pub(crate) took: Duration,
}

/// The errors of a scenario's stages, and how long they took.
pub(crate) fn stage_errors(listed: &Listed, record: &Record) -> (Vec<String>, Duration) {
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
pub(crate) fn judge(listed: &Listed, command: usize, record: &Record, logs: &str) -> Outcome {
    let (mut errors, mut took) = stage_errors(listed, record);
    let mine = |during: Option<(usize, usize)>| during.is_none_or(|(_, other)| other == command);
    let failures = record
        .failures
        .iter()
        .filter(|failure| mine(failure.during) && !is_expected(&listed.name, &failure.text));
    errors.extend(failures.map(ToString::to_string));
    // The scenario itself judges a guest that had no witness when its host was updated, and says so.
    let without = record.values.iter().any(|value| value.name == "no witness");
    if listed.host.compares_updates() && !without && errors.is_empty() {
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
    if errors.is_empty() {
        errors.extend(nothing_left(record).err().map(|error| format!("{error:#}")));
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

/// Fails if a soak has left something from one kernel to the next.
fn nothing_left(record: &Record) -> Result<()> {
    soak::nothing_grew_over_kexecs(&record.all_named(soak::SAMPLE)?)
}

#[cfg(test)]
mod tests {
    use fdbox_lab::scenario::{Debian, HostKind};

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
            name: "no witness".into(),
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
