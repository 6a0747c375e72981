//! How a guest ended.

use std::sync::{Arc, Mutex};

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GuestEnd {
    /// It reset itself.
    Reset,
    /// It switched itself off.
    Off,
    /// One of its CPUs could not continue: a reset requested in this way, or a crash.
    TripleFault,
    /// Another VMM has it now.
    HandedOver,
    /// The operator ended it.
    Stopped,
    /// KVM cannot continue.
    Broken(String),
}

impl GuestEnd {
    /// The reason, for people.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Reset => "the guest reset itself",
            Self::Off => "the guest switched itself off",
            Self::TripleFault => "the guest reset by a triple fault",
            Self::HandedOver => "another VMM has the guest",
            Self::Stopped => "the operator asked for it",
            Self::Broken(why) => why,
        }
    }

    /// Whether the guest caused it itself.
    pub(crate) fn is_the_guests(&self) -> bool {
        matches!(self, Self::Reset | Self::Off | Self::TripleFault)
    }
}

/// How a guest ended, shared by all of its vCPUs.
pub(crate) type Ended = Mutex<Option<GuestEnd>>;

/// Called by a vCPU thread when the guest ends.
pub(crate) type OnEnd = Arc<dyn Fn(GuestEnd) + Send + Sync>;
