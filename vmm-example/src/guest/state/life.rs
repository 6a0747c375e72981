//! The state of a guest that does not run.

use serde::{Deserialize, Serialize};

use crate::guest::vcpu::GuestEnd;

/// The guest's last action that has not been carried out yet, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EventV1 {
    Reset,
    TripleFault,
    Off,
}

/// Why the guest does not continue when it arrives, version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LifeStateV1 {
    /// Whether it was paused, and is to stay paused.
    pub(crate) paused: bool,
    event: Option<EventV1>,
}

impl LifeStateV1 {
    pub(crate) fn new(paused: bool, end: Option<&GuestEnd>) -> Self {
        let event = match end {
            Some(GuestEnd::Reset) => Some(EventV1::Reset),
            Some(GuestEnd::TripleFault) => Some(EventV1::TripleFault),
            Some(GuestEnd::Off) => Some(EventV1::Off),
            // For these nothing is left to do, or the guest is not saved.
            Some(GuestEnd::HandedOver | GuestEnd::Stopped | GuestEnd::Broken(_)) | None => None,
        };
        Self { paused, event }
    }

    /// The action to be carried out.
    pub(crate) fn end(self) -> Option<GuestEnd> {
        self.event.map(|event| match event {
            EventV1::Reset => GuestEnd::Reset,
            EventV1::TripleFault => GuestEnd::TripleFault,
            EventV1::Off => GuestEnd::Off,
        })
    }

    /// Whether it differs from the state of a running guest.
    pub(super) fn says_something(self) -> bool {
        self != Self::default()
    }
}
