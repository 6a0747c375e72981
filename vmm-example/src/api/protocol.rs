//! The API: JSON objects, one a line. A request gets replies up to a final one.
//!
//! ```text
//! {"verb":"status"}                 {"reply":"status","name":"vm0",...}
//! {"verb":"live-update",...}        {"reply":"event",...} ... {"reply":"update-end",...}
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmm_fdbox::update::{Event, ExitStatus, Outcome};

use crate::error::chain;
use crate::spec::MemoryKind;
use crate::virtio::DeviceCounts;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    Pause,
    Resume,
    Shutdown,
    Cancel,
    LiveUpdate(UpdateRequest),
}

/// An update. Paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UpdateRequest {
    /// The host's next kernel; none to stay in this one.
    pub(crate) next: Option<NextKernelFiles>,
    /// The box to use. Default: the guest's name.
    #[serde(rename = "box")]
    pub(crate) box_name: Option<String>,
    pub(crate) dry_run: bool,
    /// The name of a step that is made to fail.
    pub(crate) fail_at: Option<String>,
    /// The name of a step after which the update is cancelled.
    pub(crate) cancel_after: Option<String>,
}

/// The host's next kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NextKernelFiles {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) cmdline: String,
}

/// What the VMM answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// Final: it is done.
    Ok,
    /// Final: it could not be done.
    Error { message: String },
    /// Final: the guest.
    Status(GuestStatus),
    /// Something happened in an update.
    Event(UpdateEvent),
    /// Final: how the update ended.
    UpdateEnd(UpdateEnd),
}

impl Reply {
    /// Whether no other reply follows.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self, Self::Event(_))
    }
}

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RunState {
    Running,
    Paused,
    Updating,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GuestStatus {
    pub(crate) name: String,
    pub(crate) state: RunState,
    pub(crate) pid: u32,
    pub(crate) vcpus: usize,
    pub(crate) ram_kind: MemoryKind,
    pub(crate) ram_mib: u64,
    pub(crate) tsc_khz: u32,
    /// What its devices have done.
    #[serde(default)]
    pub(crate) devices: Vec<DeviceCounts>,
}

/// Something that happened in an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpdateEvent {
    /// Since the update began.
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
    Other,
}

impl UpdateEvent {
    pub(crate) fn new(ns: u64, event: &Event) -> Self {
        let (event, step, message) = match event {
            Event::Warning(finding) => (EventKind::Warning, None, Some(finding.to_string())),
            Event::Started(step) => (EventKind::Started, Some(*step), None),
            Event::Done(step) => (EventKind::Done, Some(*step), None),
            Event::Failed(step, why) => (EventKind::Failed, Some(*step), Some(why.clone())),
            Event::RollingBack => (EventKind::RollingBack, None, None),
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

/// How an update ended, in a host that it did not leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpdateEnd {
    pub(crate) result: UpdateResult,
    /// What the client exits with.
    pub(crate) exit_status: u8,
    /// The whole of it, for a person.
    pub(crate) message: String,
    pub(crate) failed_step: Option<String>,
    pub(crate) error: Option<String>,
    /// What did not go smoothly in a rollback.
    pub(crate) problems: Vec<String>,
    /// How long the guest stood still, if it did.
    pub(crate) paused_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UpdateResult {
    /// A dry run found nothing in the way.
    Ready,
    /// Another VMM of this host can resume the guest.
    HandedOver,
    NothingChanged,
    RolledBack,
    GuestLost,
}

impl UpdateEnd {
    /// The end of a dry run that found no blocker.
    pub(crate) fn ready() -> Self {
        Self {
            result: UpdateResult::Ready,
            exit_status: ExitStatus::Done.code(),
            message: "Nothing is in the way of this update; nothing was changed".into(),
            failed_step: None,
            error: None,
            problems: Vec::new(),
            paused_ns: None,
        }
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.result == UpdateResult::HandedOver
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
            failed_step: outcome.error().map(|(step, _)| step.name().into()),
            error: outcome.error().map(|(_, error)| chain(error)),
            problems: problems.to_vec(),
            paused_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_fdbox::update::Step;

    #[test]
    fn requests_read_as_documented() {
        let read = |line: &str| serde_json::from_str::<Request>(line);
        assert_eq!(read(r#"{"verb":"status"}"#).unwrap(), Request::Status);
        let update = read(
            r#"{"verb":"live-update","next":{"kernel":"/k","initramfs":null,"cmdline":"kho=on"},
                "box":"vm0","dry_run":true}"#,
        );
        let Ok(Request::LiveUpdate(update)) = update else {
            panic!("{update:?}")
        };
        assert_eq!(update.next.unwrap().kernel, PathBuf::from("/k"));
        assert_eq!(
            (update.box_name.as_deref(), update.dry_run),
            (Some("vm0"), true)
        );
        assert!(read(r#"{"verb":"live-update","tpyo":1}"#).is_err());
        assert!(read(r#"{"verb":"explode"}"#).is_err());
    }

    #[test]
    fn replies_round_trip() {
        let event = UpdateEvent::new(5, &Event::Failed(Step::Seal, "no".into()));
        for reply in [
            Reply::Ok,
            Reply::Error {
                message: "no".into(),
            },
            Reply::Event(event),
            Reply::UpdateEnd(UpdateEnd::ready()),
        ] {
            let line = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
        }
    }

    #[test]
    fn an_end_carries_the_exit_status_of_its_outcome() {
        let end = UpdateEnd::new(&Outcome::HandedOver);
        assert_eq!((end.result, end.exit_status), (UpdateResult::HandedOver, 0));
        assert_eq!(end.failed_step, None);
    }
}
