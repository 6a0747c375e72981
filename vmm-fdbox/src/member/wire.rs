//! The messages between coordinator and members, as specified in docs/member-protocol.md.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::{Features, Info};
use crate::finding::Finding;
use crate::home::Home;
use crate::kind::Kind;
use crate::name::BoxName;
use crate::update::{Destination, Event, Limits, Step, Stopped};

/// The version of the member protocol.
pub const VERSION: u32 = 1;

/// The name of the box's descriptor in the lines that carry it.
pub const BOX_FD: &str = "box";

/// The name of the descriptor of the guest's state, for a guest whose box is not this kernel's.
pub(crate) const HOME_FD: &str = "state";

/// The coordinator's first line, and the first answer. Unknown fields are ignored, in this line
/// only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Greeting {
    Hello { version: u32 },
}

/// What the module reported to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// [`Info::uapi_version`].
    pub uapi_version: u32,
    /// [`Info::handover_version`].
    pub handover_version: u32,
    /// [`Features::bits`].
    pub features: u64,
    /// [`Info::home`].
    #[serde(default, skip_serializing_if = "Home::is_fdbox")]
    pub home: Home,
}

impl From<Info> for Module {
    fn from(info: Info) -> Self {
        Self {
            uapi_version: info.uapi_version,
            handover_version: info.handover_version,
            features: info.features.bits(),
            home: info.home,
        }
    }
}

impl From<Module> for Info {
    fn from(module: Module) -> Self {
        Self {
            uapi_version: module.uapi_version,
            handover_version: module.handover_version,
            features: Features::from_bits(module.features),
            home: module.home,
            ..Self::default()
        }
    }
}

/// How long each of the member's steps may take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsMs {
    /// [`Limits::prepare`].
    pub prepare: u64,
    /// [`Limits::pause`].
    pub pause: u64,
    /// [`Limits::save`].
    pub save: u64,
}

impl From<Limits> for LimitsMs {
    fn from(limits: Limits) -> Self {
        let ms = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        Self {
            prepare: ms(limits.prepare),
            pause: ms(limits.pause),
            save: ms(limits.save),
        }
    }
}

impl From<LimitsMs> for Limits {
    fn from(ms: LimitsMs) -> Self {
        Self {
            prepare: Duration::from_millis(ms.prepare),
            pause: Duration::from_millis(ms.pause),
            save: Duration::from_millis(ms.save),
            ..Self::default()
        }
    }
}

/// The update that a VMM is to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The guest's box. Its descriptor comes with `prepare`.
    #[serde(rename = "box")]
    pub box_name: BoxName,
    /// Who is to have the guest.
    pub to: Destination,
    /// What the module can do.
    pub module: Module,
    /// How long each step may take.
    pub limits: LimitsMs,
    /// The guest's place in the order of resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// The step that is made to fail, for tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_at: Option<Step>,
}

/// A coordinator's orders to a VMM that has a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum LeavingRequest {
    Join(Join),
    Prepare {},
    Quiesce {},
    Pause {},
    TakeBack {},
    HandOver {},
    RollBack {},
    SetDown {},
}

/// The replies of a VMM that has a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum LeavingReply {
    /// Nothing prevents the update.
    Joined {
        /// The VMM's process ID, as it knows it.
        pid: u32,
        kinds: BTreeSet<Kind>,
        findings: Vec<Finding>,
    },
    Prepared {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
    },
    /// The devices are at rest; the guest runs.
    Quiet {},
    Saved {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
    },
    /// The state is out of the box: nobody else can take the guest.
    TakenBack {},
    /// The box is gone with its keeper, so that nobody can see who has the guest; it stays paused.
    BoxGone {
        /// Why.
        message: String,
    },
    /// The other VMM has the guest.
    HandedOver {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
    },
    Down {},
    Stopped(Stopped),
    /// Somebody asked this VMM to cancel the update.
    CancelAsked {},
    Event {
        /// Nanoseconds since `join`.
        ns: u64,
        event: Event,
    },
    Refused {
        message: String,
    },
}

/// The guest that a VMM is to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrive {
    /// The guest's box. Its descriptor comes with this line.
    #[serde(rename = "box")]
    pub box_name: BoxName,
    /// Whether another VMM of this kernel has the guest and will lend what it has; otherwise the
    /// guest waits in its box.
    pub from_vmm: bool,
    /// Whether another kernel, beside this one, has the guest: the box stays sealed until the guest is taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    /// What the module can do.
    pub module: Module,
    /// When userspace of this host started, in nanoseconds of `CLOCK_BOOTTIME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userspace_boottime_ns: Option<u64>,
    /// Whether it is to arrive paused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// The step that is made to fail, for tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_at: Option<Step>,
}

impl Arrive {
    /// For a guest that another kernel has, beside this one.
    #[must_use]
    pub fn standing_by(box_name: BoxName, module: Module) -> Self {
        Self {
            box_name,
            from_vmm: false,
            standby: true,
            module,
            userspace_boottime_ns: None,
            paused: false,
            fail_at: None,
        }
    }
}

/// A coordinator's orders to a VMM that is to receive a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ArrivingRequest {
    Arrive(Arrive),
    Prebuild {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
    },
    Restore {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
        /// Go on as if `Commit` had come, with no answer in between.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        commit: bool,
    },
    Commit {},
    Adopt {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
    },
}

/// The replies of a VMM that is to receive a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ArrivingReply {
    Ready {
        /// The guest's place in the order, if its state is here and has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<u32>,
    },
    Prebuilt {},
    Restored {},
    /// This VMM has the guest, which runs or is paused.
    Running {},
    Report {
        report: Value,
    },
    Adopted {},
    Failed(Failed),
}

/// How a VMM failed to take a guest. The box is unchanged unless stated otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Failed {
    /// The step that failed.
    pub step: Step,
    /// The reason.
    pub error: String,
    /// The complete message, including what happened to the box.
    pub message: String,
    /// Whether there is a guest in the box, so that another try can succeed.
    pub can_retry: bool,
}

/// The name of a message, for error texts.
pub(crate) fn name_of(message: &impl Serialize) -> String {
    match serde_json::to_value(message) {
        Ok(Value::Object(map)) => map
            .into_iter()
            .next()
            .map_or_else(String::new, |(name, _)| name),
        Ok(Value::String(name)) => name,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
