//! Watching an update, and stopping it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use super::step::Step;
use crate::finding::Finding;

/// Something that happened in an update.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Event {
    /// Preflight found something that does not stop the update.
    Warning(Finding),
    /// A step begins.
    Started(Step),
    /// A step goes on: so much of it is done, and this is next.
    Progress {
        /// The step.
        step: Step,
        /// Parts that are done.
        done: usize,
        /// Parts in all.
        total: usize,
        /// The part that is next.
        next: String,
    },
    /// A step succeeded.
    Done(Step),
    /// A step failed, and why.
    Failed(Step, String),
    /// The rollback begins.
    RollingBack,
    /// Something went wrong in the rollback, which goes on.
    Problem(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Warning(finding) => write!(f, "Warning: {finding}"),
            Self::Started(step) => write!(f, "{step} begins"),
            Self::Progress {
                step,
                done,
                total,
                next,
            } => write!(f, "{step}: {done} of {total}, next '{next}'"),
            Self::Done(step) => write!(f, "{step} is done"),
            Self::Failed(step, why) => write!(f, "{step} failed: {why}"),
            Self::RollingBack => f.write_str("Rolling back"),
            Self::Problem(problem) => write!(f, "Problem in the rollback: {problem}"),
        }
    }
}

/// Receives events; `ticks` is the cycle counter. Called between the steps, in
/// the blackout too: be quick.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, ticks: u64, event: &Event);
}

/// Ignores every event.
impl Observer for () {
    fn event(&mut self, _: u64, _: &Event) {}
}

/// Sends every event; nobody waits for whoever receives them.
impl Observer for Sender<(u64, Event)> {
    fn event(&mut self, ticks: u64, event: &Event) {
        // Whoever no longer listens stops nothing.
        let _ = self.send((ticks, event.clone()));
    }
}

impl<F: FnMut(u64, &Event)> Observer for F {
    fn event(&mut self, ticks: u64, event: &Event) {
        self(ticks, event);
    }
}

/// Asks an update to stop, from any thread or from an [`Observer`].
///
/// Honoured before each step up to the jump, also after the box was sealed: the
/// update is rolled back. Later it has no effect.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
