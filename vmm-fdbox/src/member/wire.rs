//! What coordinator and members say to each other. docs/member-protocol.md has all of it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::{Features, Info};
use crate::finding::Finding;
use crate::kind::Kind;
use crate::name::BoxName;
use crate::update::{Destination, Event, Limits, Step, Stopped};

/// The version of the member protocol.
pub const VERSION: u32 = 1;

/// The name of the box's descriptor in the lines that it comes with.
pub const BOX_FD: &str = "box";

/// The first line, of the coordinator, and the first answer. Fields that are not known here are
/// passed over, in this line only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Greeting {
    Hello { version: u32 },
}

/// What the module told the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// [`Info::uapi_version`].
    pub uapi_version: u32,
    /// [`Info::handover_version`].
    pub handover_version: u32,
    /// [`Features::bits`].
    pub features: u64,
}

impl From<Info> for Module {
    fn from(info: Info) -> Self {
        Self {
            uapi_version: info.uapi_version,
            handover_version: info.handover_version,
            features: info.features.bits(),
        }
    }
}

impl From<Module> for Info {
    fn from(module: Module) -> Self {
        Self {
            uapi_version: module.uapi_version,
            handover_version: module.handover_version,
            features: Features::from_bits(module.features),
            ..Self::default()
        }
    }
}

/// How long each step of the member may take, in milliseconds.
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
    /// The guest's place in the order in which guests are resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// The step that is made to fail, for tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_at: Option<Step>,
}

/// What a coordinator says to a VMM that has a guest.
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

/// What a VMM that has a guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum LeavingReply {
    /// Nothing is in the way.
    Joined {
        /// Of the VMM, as it knows itself.
        pid: u32,
        kinds: BTreeSet<Kind>,
        findings: Vec<Finding>,
    },
    Prepared {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
    },
    /// Its devices are at rest; the guest runs.
    Quiet {},
    Saved {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
    },
    /// The state is out of the box: nobody else can take the guest.
    TakenBack {},
    /// The guest is the other VMM's.
    HandedOver {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
    },
    Down {},
    Stopped(Stopped),
    /// Somebody asked this VMM to stop the update.
    CancelAsked {},
    Event {
        /// Since `join`, in nanoseconds.
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
    /// It is another VMM's of this kernel, which will lend what it has; else it waits in its box.
    pub from_vmm: bool,
    /// What the module can do.
    pub module: Module,
    /// When userspace of this host started, in nanoseconds of its `CLOCK_BOOTTIME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userspace_boottime_ns: Option<u64>,
    /// It is to arrive paused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// The step that is made to fail, for tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_at: Option<Step>,
}

/// What a coordinator says to a VMM that is to get a guest.
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
    },
    Commit {},
    Adopt {
        #[serde(default, skip_serializing_if = "Value::is_null")]
        lent: Value,
    },
}

/// What a VMM that is to get a guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ArrivingReply {
    Ready {
        /// The guest's place in the order, if its state is here and tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<u32>,
    },
    Prebuilt {},
    Restored {},
    /// The guest is this VMM's, and runs or is paused.
    Running {},
    Report {
        report: Value,
    },
    Adopted {},
    Failed(Failed),
}

/// How a VMM failed to take a guest. The box is as it was, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Failed {
    /// The step.
    pub step: Step,
    /// Why.
    pub error: String,
    /// The whole of it in words, with what became of the box.
    pub message: String,
    /// Whether there is a guest in the box, so that another try can succeed.
    pub can_retry: bool,
}

/// The name of what was said, for messages.
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
