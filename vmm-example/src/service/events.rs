//! A guest's events, for listeners.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use vmm_fdbox::update::Event;

use crate::service::update_message::{EventKind, UpdateEvent};

/// How far a listener may fall behind before it is dropped.
const BACKLOG: usize = 1024;

/// An event of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// CLOCK_REALTIME, in nanoseconds since 1970.
    pub(crate) unix_ns: u64,
    /// CLOCK_BOOTTIME of the host, in nanoseconds.
    pub(crate) boottime_ns: u64,
    pub(crate) guest: String,
    /// `pausing`, `paused`, `resuming`, `resumed`, `ended`, `update-begin`, `update-end`, or
    /// `step-started` and the like.
    pub(crate) event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

impl Notice {
    pub(crate) fn now(guest: &str, event: &str) -> Self {
        let ns = |clock| {
            let now = clock_gettime(clock);
            now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
        };
        Self {
            unix_ns: ns(ClockId::Realtime),
            boottime_ns: ns(ClockId::Boottime),
            guest: guest.into(),
            event: event.into(),
            step: None,
            message: None,
        }
    }

    /// An event of an update.
    pub(crate) fn of_update(guest: &str, event: &Event) -> Self {
        let event_message = UpdateEvent::new(0, event);
        let name = match event_message.event {
            EventKind::Warning => "warning",
            EventKind::Started => "step-started",
            EventKind::Done => "step-done",
            EventKind::Failed => "step-failed",
            EventKind::RollingBack => "rolling-back",
            EventKind::Problem => "problem",
            EventKind::Progress => "progress",
            EventKind::Home => "home",
            EventKind::Other => "other",
        };
        Self {
            step: event_message.step,
            message: event_message.message,
            ..Self::now(guest, name)
        }
    }
}

/// All listeners.
#[derive(Debug, Default)]
pub(crate) struct EventHub(Mutex<Vec<SyncSender<Notice>>>);

impl EventHub {
    /// Notifies all listeners without waiting: one that does not keep up is dropped.
    pub(crate) fn tell(&self, notice: &Notice) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.try_send(notice.clone()).is_ok());
    }

    /// Signals all listeners that no more events follow.
    pub(crate) fn close(&self) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.clear();
    }

    pub(crate) fn listen(&self) -> Receiver<Notice> {
        let (sender, receiver) = sync_channel(BACKLOG);
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(sender);
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_fdbox::update::Step;

    #[test]
    fn everybody_hears_and_who_is_gone_or_slow_is_dropped() {
        let hub = EventHub::default();
        let (first, second) = (hub.listen(), hub.listen());
        hub.tell(&Notice::now("vm0", "paused"));
        assert_eq!(first.recv().unwrap().event, "paused");
        drop(first);
        (0..2 * BACKLOG).for_each(|_| hub.tell(&Notice::now("vm0", "resumed")));
        assert!(hub.0.lock().unwrap().is_empty());
        assert_eq!(second.iter().count(), BACKLOG);
    }

    #[test]
    fn a_hub_that_closes_leaves_what_was_told() {
        let hub = EventHub::default();
        let listener = hub.listen();
        hub.tell(&Notice::now("vm0", "update-end"));
        hub.close();
        assert_eq!(listener.iter().count(), 1);
    }

    #[test]
    fn a_step_of_an_update_is_told_with_its_name() {
        let notice = Notice::of_update("vm0", &Event::Failed(Step::Seal, "no".into()));
        assert_eq!(notice.event, "step-failed");
        assert_eq!(notice.step.as_deref(), Some("seal"));
        let json = serde_json::to_value(&notice).unwrap();
        assert_eq!(json["message"], "no");
        assert!(json["unix_ns"].as_u64().unwrap() > 0);
    }
}
