//! A guest's events, for listeners.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
            EventKind::Aboard => "aboard",
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
pub(crate) struct EventHub(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    listeners: Mutex<Listeners>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Listeners {
    senders: Vec<SyncSender<Notice>>,
    /// Who has not gone yet, whether or not there is more to hear.
    count: usize,
    /// Nothing more comes.
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What somebody hears, who is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) notices: Receiver<Notice>,
    hub: Arc<Shared>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.lock().count -= 1;
        self.hub.changed.notify_all();
    }
}

impl EventHub {
    /// Notifies all listeners without waiting: one that does not keep up is dropped.
    pub(crate) fn tell(&self, notice: &Notice) {
        let mut listeners = self.0.lock();
        let senders = &mut listeners.senders;
        senders.retain(|listener| listener.try_send(notice.clone()).is_ok());
    }

    /// Signals all listeners that no more events follow.
    pub(crate) fn close(&self) {
        let mut listeners = self.0.lock();
        listeners.is_closed = true;
        listeners.senders.clear();
    }

    /// Waits until everybody has heard all of it and has gone, or for so long.
    pub(crate) fn wait_until_heard(&self, limit: Duration) {
        let listeners = self.0.lock();
        let waited = self
            .0
            .changed
            .wait_timeout_while(listeners, limit, |listeners| listeners.count > 0);
        drop(waited);
    }

    pub(crate) fn listen(&self) -> Listener {
        let (sender, notices) = sync_channel(BACKLOG);
        let mut listeners = self.0.lock();
        listeners.count += 1;
        if !listeners.is_closed {
            listeners.senders.push(sender);
        }
        Listener {
            notices,
            hub: self.0.clone(),
        }
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
        assert_eq!(first.notices.recv().unwrap().event, "paused");
        drop(first);
        (0..2 * BACKLOG).for_each(|_| hub.tell(&Notice::now("vm0", "resumed")));
        assert!(hub.0.lock().senders.is_empty());
        assert_eq!(second.notices.iter().count(), BACKLOG);
    }

    #[test]
    fn a_hub_that_closes_leaves_what_was_sent() {
        let hub = EventHub::default();
        let listener = hub.listen();
        hub.tell(&Notice::now("vm0", "update-end"));
        hub.close();
        assert_eq!(listener.notices.iter().count(), 1);
        // Who comes later is told at once that there is nothing.
        assert_eq!(hub.listen().notices.iter().count(), 0);
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
