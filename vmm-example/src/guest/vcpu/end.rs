//! How a guest came to its end.

use std::sync::{Arc, Mutex};

/// How a guest came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GuestEnd {
    /// It reset itself.
    Reset,
    /// It switched itself off.
    Off,
    /// A CPU of its could not go on: a reset that it asked for in this way, or a crash.
    TripleFault,
    /// Another VMM has it now.
    HandedOver,
    /// The operator asked for it.
    Stopped,
    /// KVM cannot go on.
    Broken(String),
}

impl GuestEnd {
    /// Why, for people.
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

    /// Whether the guest did it, by itself.
    pub(crate) fn is_the_guests(&self) -> bool {
        matches!(self, Self::Reset | Self::Off | Self::TripleFault)
    }
}

/// How a guest came to its end, for all of its vCPUs.
pub(crate) type Ended = Mutex<Option<GuestEnd>>;

/// Called by a vCPU thread when the guest is at its end.
pub(crate) type OnEnd = Arc<dyn Fn(GuestEnd) + Send + Sync>;
