//! The API's messages on an update: its events, and its result.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmm_fdbox::update::{Event, ExitStatus, Outcome, UpdateError};
use vmm_fdbox::{Finding, Home};

use crate::error::chain;

/// The JSON output of an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum UpdateMessage {
    /// Something happened.
    Event(UpdateEvent),
    /// How it ended.
    UpdateEnd(UpdateEnd),
}

/// An event in an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpdateEvent {
    /// Nanoseconds since the update began.
    pub(crate) ns: u64,
    pub(crate) event: EventKind,
    pub(crate) step: Option<String>,
    pub(crate) message: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EventKind {
    Warning,
    Started,
    Done,
    Failed,
    RollingBack,
    Problem,
    Progress,
    /// The home of the guest's box.
    Home,
    /// The lifeboat has the guest.
    Aboard,
    Other,
}

impl UpdateEvent {
    pub(crate) fn home(home: Home) -> Self {
        Self {
            ns: 0,
            event: EventKind::Home,
            step: None,
            message: Some(home.to_string()),
        }
    }

    /// `time`: from the order to stop the guest to the moment when the lifeboat had it.
    pub(crate) fn aboard(ns: u64, name: &str, time: Duration) -> Self {
        let millis = time.as_secs_f64() * 1e3;
        Self {
            ns,
            event: EventKind::Aboard,
            step: None,
            message: Some(format!("{name} is in the lifeboat after {millis:.3} ms")),
        }
    }

    pub(crate) fn new(ns: u64, event: &Event) -> Self {
        let (event, step, message) = match event {
            Event::Warning(finding) => (EventKind::Warning, None, Some(finding.to_string())),
            Event::Started(step) => (EventKind::Started, Some(*step), None),
            Event::Done(step) => (EventKind::Done, Some(*step), None),
            Event::Failed(step, why) => (EventKind::Failed, Some(*step), Some(why.clone())),
            Event::RollingBack => (EventKind::RollingBack, None, None),
            Event::Progress {
                step,
                done,
                total,
                next,
            } => {
                let message = format!("{next} ({} of {total})", done + 1);
                (EventKind::Progress, Some(*step), Some(message))
            }
            Event::Problem(problem) => (EventKind::Problem, None, Some(problem.clone())),
            _ => (EventKind::Other, None, None),
        };
        Self {
            ns,
            event,
            step: step.map(|step| step.name().into()),
            message,
        }
    }
}

/// As a line for a person.
impl fmt::Display for UpdateEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step.as_deref().unwrap_or_default();
        let message = self.message.as_deref().unwrap_or_default();
        write!(f, "{:>10.3} ms  ", self.ns as f64 / 1e6)?;
        match self.event {
            EventKind::Warning => write!(f, "warning: {message}"),
            EventKind::Started => write!(f, "{step} ..."),
            EventKind::Done => write!(f, "{step} done"),
            EventKind::Failed => write!(f, "{step} failed: {message}"),
            EventKind::RollingBack => f.write_str("rolling back"),
            EventKind::Problem => write!(f, "problem: {message}"),
            EventKind::Progress => write!(f, "{step}: {message}"),
            EventKind::Home => write!(f, "boxes are kept by {message}"),
            EventKind::Aboard | EventKind::Other => f.write_str(message),
        }
    }
}

/// The result of an update, in a host that it did not leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpdateEnd {
    pub(crate) result: UpdateResult,
    /// The exit status of the client.
    pub(crate) exit_status: u8,
    /// The complete message, for a person.
    pub(crate) message: String,
    /// Whether it was cancelled.
    #[serde(default)]
    pub(crate) cancelled: bool,
    pub(crate) failed_step: Option<String>,
    pub(crate) error: Option<String>,
    /// Problems in a rollback.
    pub(crate) problems: Vec<String>,
    /// How long the guest was paused, if it was.
    pub(crate) paused_ns: Option<u64>,
    /// The findings of preflight.
    #[serde(default)]
    pub(crate) findings: Vec<Finding>,
    /// The report of the VMM that took over the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UpdateResult {
    /// A dry run found no blockers.
    Ready,
    /// Another VMM of this host runs the guest.
    Done,
    /// Another VMM of this host can resume the guest.
    HandedOver,
    NothingChanged,
    RolledBack,
    GuestLost,
    /// Its VMM is gone, and the whole guest is in its box.
    WaitsInBox,
}

impl UpdateEnd {
    /// The result of a dry run without blockers.
    pub(crate) fn ready() -> Self {
        Self {
            result: UpdateResult::Ready,
            exit_status: ExitStatus::Done.code(),
            message: "Nothing prevents this update; nothing was changed".into(),
            cancelled: false,
            failed_step: None,
            error: None,
            problems: Vec::new(),
            paused_ns: None,
            findings: Vec::new(),
            report: None,
        }
    }

    /// The result of an update after which another process may have the guest.
    pub(crate) fn handed_over() -> Self {
        Self {
            result: UpdateResult::HandedOver,
            message: "Handed over".into(),
            ..Self::ready()
        }
    }

    /// The result of an update after which another process runs the guest.
    pub(crate) fn done(report: Value, text: String) -> Self {
        Self {
            result: UpdateResult::Done,
            message: text,
            report: Some(report),
            ..Self::ready()
        }
    }

    /// The result for a guest that was to be left behind by an update that then failed.
    pub(crate) fn stood_up() -> Self {
        Self {
            result: UpdateResult::RolledBack,
            exit_status: ExitStatus::RolledBack.code(),
            message: "Continues".into(),
            cancelled: true,
            ..Self::ready()
        }
    }

    /// Whether this process no longer has the guest.
    pub(crate) fn has_left(&self) -> bool {
        matches!(self.result, UpdateResult::HandedOver | UpdateResult::Done)
    }

    pub(crate) fn new(outcome: &Outcome) -> Self {
        let (result, problems, paused_ns) = match outcome {
            Outcome::HandedOver => (UpdateResult::HandedOver, &[][..], None),
            Outcome::NothingChanged { .. } => (UpdateResult::NothingChanged, &[][..], None),
            Outcome::RolledBack {
                problems,
                paused_ns,
                ..
            } => (UpdateResult::RolledBack, problems.as_slice(), *paused_ns),
            Outcome::GuestLost { problems, .. } => {
                (UpdateResult::GuestLost, problems.as_slice(), None)
            }
        };
        Self {
            result,
            exit_status: outcome.exit_status().code(),
            message: outcome.to_string(),
            cancelled: matches!(outcome.error(), Some((_, UpdateError::Cancelled))),
            failed_step: outcome.error().map(|(step, _)| step.name().into()),
            error: outcome.error().map(|(_, error)| chain(error)),
            problems: problems.to_vec(),
            paused_ns,
            findings: match outcome.error() {
                Some((_, UpdateError::Blocked(found))) => found.clone(),
                _ => Vec::new(),
            },
            report: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_fdbox::update::Step;

    use super::*;

    #[test]
    fn an_end_carries_the_exit_status_of_its_outcome() {
        let end = UpdateEnd::new(&Outcome::HandedOver);
        assert_eq!((end.result, end.exit_status), (UpdateResult::HandedOver, 0));
        assert_eq!(end.failed_step, None);
    }

    #[test]
    fn what_is_told_round_trips() {
        let event = UpdateEvent::new(5, &Event::Failed(Step::Seal, "no".into()));
        assert_eq!(event.to_string(), "     0.000 ms  seal failed: no");
        for message in [
            UpdateMessage::Event(event),
            UpdateMessage::UpdateEnd(UpdateEnd::ready()),
        ] {
            let line = serde_json::to_string(&message).unwrap();
            assert!(line.starts_with(r#"{"reply":""#), "{line}");
            assert_eq!(
                serde_json::from_str::<UpdateMessage>(&line).unwrap(),
                message
            );
        }
    }
}
