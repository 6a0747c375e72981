//! The main thread: console input until the guest comes to its end.

use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::guest::vcpu::GuestEnd;

/// Why the event loop failed.
#[derive(Debug, Error)]
pub(crate) enum LoopError {
    #[error("Cannot create the event loop")]
    Create(#[source] event_manager::Error),
    #[error("Cannot create the event of the guest's end")]
    CreateEvent(#[source] std::io::Error),
    #[error("The event loop failed")]
    Run(#[source] event_manager::Error),
}

/// Tells the event loop that the guest is at its end; the first word counts.
#[derive(Clone, Debug)]
pub(crate) struct EndSignal {
    event: Arc<EventFd>,
    end: Arc<Mutex<Option<GuestEnd>>>,
}

impl EndSignal {
    pub(crate) fn new() -> Result<Self, LoopError> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(LoopError::CreateEvent)?;
        Ok(Self {
            event: Arc::new(event),
            end: Arc::default(),
        })
    }

    pub(crate) fn send(&self, end: GuestEnd) {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(end);
        // A counter that is full has woken the loop already.
        let _ = self.event.write(1);
    }

    fn get(&self) -> Option<GuestEnd> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl MutEventSubscriber for EndSignal {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        // The loop looks for the end itself, after every round of events.
        let _ = self.event.read();
    }

    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&*self.event, EventSet::IN));
    }
}

/// Serves events until the guest's end.
pub(crate) fn run(
    end: &EndSignal,
    subscribers: Vec<Box<dyn MutEventSubscriber>>,
) -> Result<GuestEnd, LoopError> {
    let mut manager =
        EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(LoopError::Create)?;
    manager.add_subscriber(Box::new(end.clone()));
    for subscriber in subscribers {
        manager.add_subscriber(subscriber);
    }
    loop {
        if let Some(end) = end.get() {
            return Ok(end);
        }
        manager.run().map_err(LoopError::Run)?;
    }
}
