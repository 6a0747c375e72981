//! The operator's view of an update, of one guest or of many.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_fdbox::Home;
use vmm_fdbox::member::OnEvent;
use vmm_fdbox::update::{CancelFlag, ExitStatus, FleetEvent, FleetOutcome, Step};

use super::many::{Many, Ticker};
use super::one::One;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) enum Output {
    One(Arc<Mutex<One>>),
    Many(Many),
}

fn lock(one: &Mutex<One>) -> MutexGuard<'_, One> {
    one.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Output {
    /// For one guest. `report`: where the report of its new VMM goes. The update is cancelled when
    /// the step `cancel_after` is done.
    pub(super) fn one(
        json: bool,
        report: Option<PathBuf>,
        cancel_after: Option<Step>,
        cancel: &CancelFlag,
    ) -> Self {
        let one = One::new(json, report, cancel_after, cancel.clone());
        Self::One(Arc::new(Mutex::new(one)))
    }

    pub(super) fn many(json: bool) -> Self {
        Self::Many(Many::new(json))
    }

    /// Shows progress until the returned value is dropped.
    pub(super) fn ticker(&self) -> Option<Ticker> {
        match self {
            Self::One(_) => None,
            Self::Many(many) => Some(many.ticker()),
        }
    }

    /// Receives a guest's events.
    pub(super) fn guest(&self, name: &str) -> OnEvent {
        match self.clone() {
            Self::One(one) => Box::new(move |ns, event| lock(&one).guest_event(ns, event)),
            Self::Many(many) => {
                let name = name.to_owned();
                Box::new(move |ns, event| many.guest_event(&name, ns, event))
            }
        }
    }

    pub(super) fn fleet(&self, event: &FleetEvent<'_>) {
        match self {
            Self::One(one) => lock(one).fleet_event(event),
            Self::Many(many) => many.fleet_event(event),
        }
    }

    /// Reports that the lifeboat has a guest, and how long it took.
    pub(super) fn aboard(&self, name: &str, time: Duration) {
        match self {
            Self::One(one) => lock(one).aboard(name, time),
            Self::Many(many) => many.aboard(name, time),
        }
    }

    /// Reports the home of the guests' boxes.
    pub(super) fn home(&self, home: Home) {
        match self {
            Self::One(one) => lock(one).home(home),
            Self::Many(many) => many.home(home),
        }
    }

    /// Shows the result, if the host was not left.
    pub(super) fn end(&self, outcome: &FleetOutcome, dry_run: bool) -> ExitStatus {
        match self {
            Self::One(one) => lock(one).end(outcome, dry_run),
            Self::Many(many) => many.end(outcome, dry_run),
        }
        outcome.exit_status()
    }
}
