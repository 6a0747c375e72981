//! The API: JSON objects, one a line. A request gets replies up to a final one.
//!
//! ```text
//! {"verb":"status"}                 {"reply":"status","name":"vm0",...}
//! {"verb":"live-update",...}        {"reply":"event",...} ... {"reply":"update-end",...}
//! {"verb":"join-update",...}        {"reply":"step-done","step":"preflight"}
//! {"verb":"prepare"}                {"reply":"event",...} ... {"reply":"step-done","step":"seal"}
//! {"verb":"pause-and-save"}         {"reply":"step-done","step":"save"}
//! {"verb":"roll-back"}              {"reply":"event",...} ... {"reply":"update-end",...}
//! {"verb":"events"}                 {"reply":"notice",...} ...
//! ```
//!
//! An update that was joined belongs to its connection: when that closes, it is rolled back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmm_fdbox::Finding;
use vmm_fdbox::update::{Event, ExitStatus, Outcome, UpdateError};

use super::joint::JoinRequest;
use crate::error::chain;
use crate::events::Notice;
use crate::handover::Running;
use crate::report::Blackout;
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
    /// Take part in an update that the client carries out, up to preflight.
    JoinUpdate(JoinRequest),
    /// In an update that was joined: fill the box and seal it.
    Prepare,
    /// In an update that was joined: stop the guest and write its state.
    PauseAndSave,
    /// In an update that was joined: undo all of it.
    RollBack,
    /// In an update that was joined and is paused: the guest is another VMM's now.
    HandOver,
    /// Everything that happens from now on, until the client hangs up.
    Events,
    Metrics,
}

/// An update. Paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UpdateRequest {
    /// The host's next kernel; none to stay in this one.
    pub(crate) next: Option<NextKernelFiles>,
    /// Another build of this VMM that is to take the guest over, in this kernel. Left out
    /// otherwise, as is what goes with it: older VMMs do not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) binary: Option<PathBuf>,
    /// How many seconds it may take for each answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<u64>,
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
    Status(Box<GuestStatus>),
    /// Something happened in an update.
    Event(UpdateEvent),
    /// Final: how the update ended.
    UpdateEnd(UpdateEnd),
    /// Final: this VMM's share of a step is done.
    StepDone { step: String },
    /// Somebody wants the update cancelled, and the guest waits for the jump: roll back.
    CancelAsked,
    /// Something happened to the guest.
    Notice(Notice),
    /// Final: figures, as Prometheus reads them.
    Metrics { text: String },
}

impl Reply {
    /// Whether this ends what was asked for.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self, Self::Event(_) | Self::CancelAsked | Self::Notice(_))
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
    /// The step of the update that is on.
    #[serde(default)]
    pub(crate) step: Option<String>,
    /// How this VMM's last update ended.
    #[serde(default)]
    pub(crate) last_update: Option<UpdateResult>,
    /// The blackout of the update that brought the guest here.
    #[serde(default)]
    pub(crate) blackout: Option<Blackout>,
    /// What its virtio devices have done.
    #[serde(default)]
    pub(crate) devices: Vec<DeviceCounts>,
    /// The devices of the host that it drives itself.
    #[serde(default)]
    pub(crate) host_devices: Vec<HostDeviceStatus>,
}

/// A device of the host that a guest drives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostDeviceStatus {
    /// Its name in a box, such as `vfio0`.
    pub(crate) device: String,
    /// Its PCI address in the host, such as `0000:01:00.0`.
    pub(crate) address: String,
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
    Progress,
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

/// How an update ended, in a host that it did not leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpdateEnd {
    pub(crate) result: UpdateResult,
    /// What the client exits with.
    pub(crate) exit_status: u8,
    /// The whole of it, for a person.
    pub(crate) message: String,
    /// Somebody asked for it.
    #[serde(default)]
    pub(crate) cancelled: bool,
    pub(crate) failed_step: Option<String>,
    pub(crate) error: Option<String>,
    /// What did not go smoothly in a rollback.
    pub(crate) problems: Vec<String>,
    /// How long the guest stood still, if it did.
    pub(crate) paused_ns: Option<u64>,
    /// What preflight found.
    #[serde(default)]
    pub(crate) findings: Vec<FindingReport>,
    /// What the VMM that took the guest over reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<Value>,
}

/// What preflight found, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FindingReport {
    /// Whether it stops the update.
    pub(crate) blocker: bool,
    pub(crate) subject: String,
    pub(crate) problem: String,
    /// What to do.
    pub(crate) remedy: String,
}

impl From<&Finding> for FindingReport {
    fn from(finding: &Finding) -> Self {
        Self {
            blocker: finding.is_blocker(),
            subject: finding.subject.clone(),
            problem: finding.problem.clone(),
            remedy: finding.remedy.clone(),
        }
    }
}

impl From<FindingReport> for Finding {
    fn from(report: FindingReport) -> Self {
        let FindingReport {
            blocker,
            subject,
            problem,
            remedy,
        } = report;
        if blocker {
            Self::blocker(subject, problem, remedy)
        } else {
            Self::warning(subject, problem, remedy)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UpdateResult {
    /// A dry run found nothing in the way.
    Ready,
    /// Another VMM of this host runs the guest.
    Done,
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
            cancelled: false,
            failed_step: None,
            error: None,
            problems: Vec::new(),
            paused_ns: None,
            findings: Vec::new(),
            report: None,
        }
    }

    /// The end of an update after which another process runs the guest.
    pub(crate) fn done(running: &Running) -> Self {
        Self {
            result: UpdateResult::Done,
            message: running.text.clone(),
            report: Some(running.report.clone()),
            ..Self::ready()
        }
    }

    /// Whether this process is not the guest's any more.
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
                Some((_, UpdateError::Blocked(found))) => found.iter().map(Into::into).collect(),
                _ => Vec::new(),
            },
            report: None,
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
