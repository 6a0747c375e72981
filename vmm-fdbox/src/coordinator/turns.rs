//! The order in which guests are resumed.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::deadline::Deadline;

/// The progress of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Its place is unknown: it may come before all others.
    Unknown,
    /// It waits for its turn.
    Waits(u64),
    /// It is its turn. The others wait for it up to the deadline.
    Goes(u64, Deadline),
    /// It runs, or never will.
    Over,
}

/// Decides which guests may proceed. Nobody is waited for beyond a limit.
pub(super) struct Turns {
    guests: Mutex<Vec<Progress>>,
    changed: Condvar,
    limit: Duration,
    /// The deadline for places that are not known yet.
    known_by: Deadline,
}

impl Turns {
    pub(super) fn new(guests: usize, limit: Duration) -> Self {
        Self {
            guests: Mutex::new(vec![Progress::Unknown; guests]),
            changed: Condvar::new(),
            limit,
            known_by: Deadline::within(limit),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Progress>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a guest whose place is now known.
    fn wait(&self, at: usize, position: Option<u32>) {
        let own = position.map_or(u64::MAX, u64::from);
        let mut guests = self.lock();
        guests[at] = Progress::Waits(own);
        self.changed.notify_all();
        while let Some(bound) = guests
            .iter()
            .filter_map(|place| self.bound(place, own))
            .max()
        {
            let waited = self.changed.wait_timeout(guests, bound);
            guests = waited.map_or_else(|poison| poison.into_inner().0, |(guests, _)| guests);
        }
        guests[at] = Progress::Goes(own, Deadline::within(self.limit));
        self.changed.notify_all();
    }

    /// How long to wait for another guest at most; `None` if not at all.
    fn bound(&self, other: &Progress, own: u64) -> Option<Duration> {
        let until = |deadline: &Deadline| Some(deadline.left()).filter(|left| !left.is_zero());
        match other {
            Progress::Unknown => until(&self.known_by),
            // It waits for another guest itself, and for no longer than that.
            Progress::Waits(place) if *place < own => Some(self.limit),
            Progress::Goes(place, deadline) if *place < own => until(deadline),
            Progress::Waits(_) | Progress::Goes(..) | Progress::Over => None,
        }
    }

    /// Nobody waits for it any more.
    fn end(&self, at: usize) {
        self.lock()[at] = Progress::Over;
        self.changed.notify_all();
    }
}

/// A guest's place, which is given up on drop.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    at: usize,
}

impl<'a> Turn<'a> {
    pub(super) fn new(turns: &'a Turns, at: usize) -> Self {
        Self { turns, at }
    }

    /// Waits for its turn.
    pub(super) fn wait(&self, position: Option<u32>) {
        self.turns.wait(self.at, position);
    }

    /// The guest runs.
    pub(super) fn end(&self) {
        self.turns.end(self.at);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
