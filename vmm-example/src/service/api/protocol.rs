//! The API: JSON objects, one per line. A request gets replies up to a final one.
//!
//! ```text
//! {"verb":"status"}                 {"reply":"status","name":"vm0",...}
//! {"verb":"join-update"}           {"reply":"ok"}, then the member protocol
//! {"verb":"events"}                 {"reply":"notice",...} ...
//! ```
//!
//! An update that was joined belongs to its connection: if that closes, the update is rolled back.

use serde::{Deserialize, Serialize};
use vmm_fdbox::facts::PreviousKernel;
use vmm_fdbox::frame::Description;

use crate::devices::pci::HostDeviceStatus;
use crate::devices::virtio::DeviceCounts;
use crate::guest::cpuid::host::Optional;
use crate::service::events::Notice;
use crate::service::report::Blackout;
use crate::service::update_message::UpdateResult;
use crate::spec::MemoryKind;

/// A client's request. The variants have braces because otherwise serde would accept unknown
/// fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Status {},
    Pause {},
    /// Older clients call it `resume`.
    #[serde(alias = "resume")]
    Continue {},
    Shutdown(ShutdownRequest),
    Cancel {},
    /// Takes part in an update: after the answer the connection belongs to the coordinator, and
    /// speaks the member protocol.
    JoinUpdate {},
    /// The sections of the state that an update would write now.
    DescribeState {},
    /// All events from now on, until the client hangs up.
    Events {},
    Metrics {},
}

/// A request to end the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ShutdownRequest {
    /// The number of seconds after which its power is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<u64>,
}

/// The VMM's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// Final: success.
    Ok,
    /// Final: failure.
    Error { message: String },
    /// Final: the guest.
    Status(Box<GuestStatus>),
    /// An event of the guest.
    Notice(Notice),
    /// Final: metrics in Prometheus format.
    Metrics { text: String },
    /// Final: a description of the state.
    State { state: Box<Description> },
}

impl Reply {
    /// Whether this ends a request.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self, Self::Notice(_))
    }
}

/// The state of a guest.
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
    /// The optional CPU features it was given.
    #[serde(default)]
    pub(crate) cpu_features: Vec<Optional>,
    pub(crate) ram_kind: MemoryKind,
    pub(crate) ram_mib: u64,
    pub(crate) tsc_khz: u32,
    /// The current step of an update.
    #[serde(default)]
    pub(crate) step: Option<String>,
    /// How this VMM's last update ended.
    #[serde(default)]
    pub(crate) last_update: Option<UpdateResult>,
    /// The blackout of the update that brought the guest here.
    #[serde(default)]
    pub(crate) blackout: Option<Blackout>,
    /// The kernel that handed the guest over to this one.
    #[serde(default)]
    pub(crate) previous_kernel: Option<PreviousKernel>,
    /// The counters of its virtio devices.
    #[serde(default)]
    pub(crate) devices: Vec<DeviceCounts>,
    /// Its passed-through devices.
    #[serde(default)]
    pub(crate) host_devices: Vec<HostDeviceStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::update_message::UpdateEnd;

    #[test]
    fn requests_read_as_documented() {
        let read = |line: &str| serde_json::from_str::<Request>(line);
        assert_eq!(read(r#"{"verb":"status"}"#).unwrap(), Request::Status {});
        assert!(read(r#"{"verb":"explode"}"#).is_err());
    }

    #[test]
    fn a_request_has_no_fields_but_its_own() {
        let verbs = expected::<Request>(r#"{"verb":"?"}"#);
        for verb in verbs {
            let bare = format!(r#"{{"verb":"{verb}"}}"#);
            assert!(serde_json::from_str::<Request>(&bare).is_ok(), "{bare}");
            let more = format!(r#"{{"verb":"{verb}","force":true}}"#);
            assert!(serde_json::from_str::<Request>(&more).is_err(), "{more}");
        }
    }

    #[test]
    fn continue_has_the_name_of_its_command_and_its_old_one() {
        let read = |line: &str| serde_json::from_str::<Request>(line).unwrap();
        assert_eq!(read(r#"{"verb":"continue"}"#), Request::Continue {});
        assert_eq!(read(r#"{"verb":"resume"}"#), Request::Continue {});
        let written = serde_json::to_string(&Request::Continue {}).unwrap();
        assert_eq!(written, r#"{"verb":"continue"}"#);
    }

    /// The names listed in the error for an unknown one.
    fn expected<T: serde::de::DeserializeOwned>(line: &str) -> Vec<String> {
        let error = match serde_json::from_str::<T>(line) {
            Ok(_) => panic!("{line} was read"),
            Err(error) => error.to_string(),
        };
        let names = error.split('`').skip(3).step_by(2).map(String::from);
        names.filter(|name| name != "resume").collect()
    }

    /// The first column of the table in a section of the operator's guide.
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
        assert!(requests.len() >= 9, "{requests:?}");
        assert_eq!(sorted(documented("Requests")), sorted(requests));
        let replies = expected::<Reply>(r#"{"reply":"?"}"#);
        assert_eq!(sorted(documented("Replies")), sorted(replies));
    }

    #[test]
    fn every_field_of_a_request_is_documented() {
        let guide = include_str!("../../../../docs/operations.md");
        let fields = expected::<ShutdownRequest>(r#"{"?":1}"#);
        let (_, requests) = guide.split_once("\n### Requests\n").unwrap();
        for field in fields {
            assert!(requests.contains(&format!("`{field}`")), "{field}");
        }
    }

    #[test]
    fn replies_round_trip() {
        for reply in [
            Reply::Ok,
            Reply::Error {
                message: "no".into(),
            },
            Reply::State {
                state: Box::new(crate::guest::state::description(&[])),
            },
        ] {
            let line = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
        }
    }

    /// Reads a message, which must survive to be written and read again.
    fn again<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
        input: &[u8],
    ) {
        if let Ok(message) = serde_json::from_slice::<T>(input) {
            let line = serde_json::to_vec(&message).unwrap();
            assert_eq!(serde_json::from_slice::<T>(&line).unwrap(), message);
        }
    }

    #[test]
    fn fuzz_api() {
        let state = Reply::State {
            state: Box::new(crate::guest::state::description(&["virtio-blk0"])),
        };
        let seeds = [
            r#"{"verb":"status"}"#.to_owned(),
            r#"{"verb":"shutdown","timeout":30}"#.to_owned(),
            r#"{"reply":"error","message":"no"}"#.to_owned(),
            serde_json::to_string(&state).unwrap(),
            r#"{"reply":"status","name":"vm0","state":"paused","pid":1,"vcpus":2,"ram_kind":"memfd","ram_mib":64,"tsc_khz":1,"devices":[]}"#.to_owned(),
            serde_json::to_string(&UpdateEnd::ready()).unwrap(),
        ];
        let seeds: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
        crate::fuzz::run("api", &seeds, |input| {
            again::<Request>(input);
            again::<Reply>(input);
            again::<UpdateEnd>(input);
        });
    }
}
