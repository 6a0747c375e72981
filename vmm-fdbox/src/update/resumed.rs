//! The end of an update: the guest runs in its new host.

use crate::clock::Clock;
use crate::name::BoxName;
use crate::store::BoxStore;
use crate::timeline::{Report, Timeline, TimelineError, phase};
use crate::update::{Step, UpdateError};

/// A guest that was taken over and may run.
#[derive(Debug)]
#[must_use = "its box has to be deleted: call finish"]
pub struct Resumed<S: BoxStore> {
    pub(super) store: S,
    pub(super) name: BoxName,
    pub(super) clock: Clock,
    pub(super) timeline: Timeline,
    pub(super) fail_at: Option<Step>,
    /// Held until the box is deleted.
    pub(super) _claim: Option<S::Claim>,
}

/// The end of an update.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished {
    /// The blackout by phase.
    pub report: Result<Report, TimelineError>,
    /// Whether the box was deleted. If not, it holds its name and duplicates of the guest's
    /// descriptors until somebody deletes it; nobody can take the guest out of it.
    pub deleted: Result<(), UpdateError>,
    /// All marks of both hosts.
    pub timeline: Timeline,
}

impl<S: BoxStore> Resumed<S> {
    /// Marks the start of a phase, now.
    pub fn mark(&mut self, name: &str) {
        self.mark_at(name, self.clock.now());
    }

    /// Marks the start of a phase.
    pub fn mark_at(&mut self, name: &str, ticks: u64) {
        let _ = self.timeline.mark(name, ticks);
    }

    /// Marks the first KVM_RUN, now: the end of the blackout.
    pub fn running(&mut self) {
        self.mark(phase::RUNNING);
    }

    /// Marks the first KVM_RUN, at `ticks` of the cycle counter, if another thread recorded it.
    pub fn running_at(&mut self, ticks: u64) {
        self.mark_at(phase::RUNNING, ticks);
    }

    /// Deletes the box and returns the report. The guest runs meanwhile.
    pub fn finish(self) -> Finished {
        let deleted = match self.fail_at {
            Some(Step::Finish) => Err(UpdateError::Injected(Step::Finish)),
            _ => self.store.delete(&self.name).map_err(UpdateError::from),
        };
        Finished {
            report: self.timeline.report(),
            deleted,
            timeline: self.timeline,
        }
    }
}
