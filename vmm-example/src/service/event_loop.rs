//! The main thread: serves console input until the guest ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Notifies the event loop of what may be the guest's end, in order.
#[derive(Clone, Debug)]
pub(crate) struct EndSignal {
    event: Arc<EventFd>,
    ends: Arc<Mutex<VecDeque<GuestEnd>>>,
}

impl EndSignal {
    pub(crate) fn new() -> Result<Self, LoopError> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(LoopError::CreateEvent)?;
        Ok(Self {
            event: Arc::new(event),
            ends: Arc::default(),
        })
    }

    pub(crate) fn send(&self, end: GuestEnd) {
        self.ends().push_back(end);
        // If the counter is full, the loop has already been woken.
        let _ = self.event.write(1);
    }

    /// Discards what the guest did by itself: it has been carried out.
    pub(crate) fn forget_the_guests(&self) {
        self.ends().retain(|end| !end.is_the_guests());
    }

    fn next(&self) -> Option<GuestEnd> {
        self.ends().pop_front()
    }

    fn ends(&self) -> MutexGuard<'_, VecDeque<GuestEnd>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MutEventSubscriber for EndSignal {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        // The loop checks for the end itself, after every round of events.
        let _ = self.event.read();
    }

    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&*self.event, EventSet::IN));
    }
}

/// Serves events until `decide` accepts something as the guest's end.
pub(crate) fn run(
    signal: &EndSignal,
    subscribers: Vec<Box<dyn MutEventSubscriber>>,
    mut decide: impl FnMut(GuestEnd) -> Option<GuestEnd>,
) -> Result<GuestEnd, LoopError> {
    let mut manager =
        EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(LoopError::Create)?;
    manager.add_subscriber(Box::new(signal.clone()));
    for subscriber in subscribers {
        manager.add_subscriber(subscriber);
    }
    loop {
        while let Some(signalled) = signal.next() {
            if let Some(end) = decide(signalled) {
                return Ok(end);
            }
        }
        manager.run().map_err(LoopError::Run)?;
    }
}
