//! The API: JSON objects, one a line. A request gets replies up to a final one.
//!
//! ```text
//! {"verb":"status"}                 {"reply":"status","name":"vm0",...}
//! {"verb":"live-update",...}        {"reply":"event",...} ... {"reply":"update-end",...}
//! {"verb":"join-update",...}        {"reply":"step-done","step":"preflight"}
//! {"verb":"prepare"}                {"reply":"event",...} ... {"reply":"step-done","step":"seal"}
//! {"verb":"pause-and-save"}         {"reply":"step-done","step":"save"}
//! {"verb":"set-down"}               {"reply":"ok"}
//! {"verb":"roll-back"}              {"reply":"event",...} ... {"reply":"update-end",...}
//! {"verb":"events"}                 {"reply":"notice",...} ...
//! ```
//!
//! An update that was joined belongs to its connection: when that closes, it is rolled back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmm_fdbox::update::{KexecHost, NextKernel};

use super::joint::JoinRequest;
use crate::devices::pci::HostDeviceStatus;
use crate::devices::virtio::DeviceCounts;
use crate::service::events::Notice;
use crate::service::report::Blackout;
use crate::service::told::{UpdateEnd, UpdateEvent, UpdateResult};
use crate::spec::MemoryKind;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    Pause,
    /// Clients of before it had its name of today call it `resume`.
    #[serde(alias = "resume")]
    Continue,
    Shutdown(ShutdownRequest),
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
    /// The client is about to leave this kernel without the guest: stop it, and make safe what
    /// it wrote. Undone like an update that was joined.
    SetDown,
    /// Everything that happens from now on, until the client hangs up.
    Events,
    Metrics,
}

/// An end of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ShutdownRequest {
    /// After how many seconds its power is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<u64>,
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
    /// Left out unless it is so: older VMMs do not know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) assume_patches: bool,
}

impl NextKernelFiles {
    /// The host that leaves for it.
    pub(crate) fn into_host(self) -> KexecHost {
        let next = NextKernel::Files {
            kernel: self.kernel,
            initramfs: self.initramfs,
            cmdline: self.cmdline,
        };
        KexecHost::new(next).assuming_patches(self.assume_patches)
    }
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

#[cfg(test)]
mod tests {
    use vmm_fdbox::update::{Event, Step};

    use super::*;

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
    fn continue_has_the_name_of_its_command_and_its_old_one() {
        let read = |line: &str| serde_json::from_str::<Request>(line).unwrap();
        assert_eq!(read(r#"{"verb":"continue"}"#), Request::Continue);
        assert_eq!(read(r#"{"verb":"resume"}"#), Request::Continue);
        let said = serde_json::to_string(&Request::Continue).unwrap();
        assert_eq!(said, r#"{"verb":"continue"}"#);
    }

    /// The names that an unknown one is told to be none of.
    fn expected<T: serde::de::DeserializeOwned>(line: &str) -> Vec<String> {
        let error = match serde_json::from_str::<T>(line) {
            Ok(_) => panic!("{line} was read"),
            Err(error) => error.to_string(),
        };
        let names = error.split('`').skip(3).step_by(2).map(String::from);
        names.filter(|name| name != "resume").collect()
    }

    /// The first column of a section's table in the operator's guide.
    fn documented(heading: &str) -> Vec<String> {
        let guide = include_str!("../../../../docs/operations.md");
        let (_, section) = guide.split_once(&format!("\n### {heading}\n")).unwrap();
        let section = section.split("\n#").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| row.split('`').next().unwrap().into())
            .collect()
    }

    #[test]
    fn every_request_and_reply_is_documented_and_no_other() {
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        let requests = expected::<Request>(r#"{"verb":"?"}"#);
        assert!(requests.len() >= 14, "{requests:?}");
        assert_eq!(sorted(documented("Requests")), sorted(requests));
        let replies = expected::<Reply>(r#"{"reply":"?"}"#);
        assert_eq!(sorted(documented("Replies")), sorted(replies));
    }

    #[test]
    fn every_field_of_a_request_is_documented() {
        let guide = include_str!("../../../../docs/operations.md");
        let fields = expected::<UpdateRequest>(r#"{"?":1}"#)
            .into_iter()
            .chain(expected::<NextKernelFiles>(r#"{"?":1}"#))
            .chain(expected::<ShutdownRequest>(r#"{"?":1}"#))
            .chain(expected::<JoinRequest>(r#"{"?":1}"#));
        let (_, requests) = guide.split_once("\n### Requests\n").unwrap();
        for field in fields {
            assert!(requests.contains(&format!("`{field}`")), "{field}");
        }
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
}
