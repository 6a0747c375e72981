//! What a guest that does not run is about.

use serde::{Deserialize, Serialize};

use crate::guest::vcpu::GuestEnd;

/// What the guest did last, and nobody has carried out yet, version 1.
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
    /// Somebody paused it, and wants it so.
    pub(crate) paused: bool,
    event: Option<EventV1>,
}

impl LifeStateV1 {
    pub(crate) fn new(paused: bool, end: Option<&GuestEnd>) -> Self {
        let event = match end {
            Some(GuestEnd::Reset) => Some(EventV1::Reset),
            Some(GuestEnd::TripleFault) => Some(EventV1::TripleFault),
            Some(GuestEnd::Off) => Some(EventV1::Off),
            // Of these nothing is left to do, or nobody saves the guest.
            Some(GuestEnd::HandedOver | GuestEnd::Stopped | GuestEnd::Broken(_)) | None => None,
        };
        Self { paused, event }
    }

    /// What is to be carried out.
    pub(crate) fn end(self) -> Option<GuestEnd> {
        self.event.map(|event| match event {
            EventV1::Reset => GuestEnd::Reset,
            EventV1::TripleFault => GuestEnd::TripleFault,
            EventV1::Off => GuestEnd::Off,
        })
    }

    /// Whether it differs from that of a guest that runs.
    pub(super) fn says_something(self) -> bool {
        self != Self::default()
    }
}
