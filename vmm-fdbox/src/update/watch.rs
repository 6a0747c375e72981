//! Observing and cancelling an update.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::step::Step;
use crate::finding::Finding;

/// An event in an update.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Event {
    /// Preflight found something that does not stop the update.
    Warning(Finding),
    /// A step begins.
    Started(Step),
    /// A step makes progress.
    Progress {
        /// The step.
        step: Step,
        /// Parts that are done.
        done: usize,
        /// Parts in all.
        total: usize,
        /// The part that comes next.
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

/// Receives events; `ticks` is the cycle counter. Called between the steps, also during the
/// blackout: be quick.
pub trait Observer {
    /// An event occurred.
    fn event(&mut self, ticks: u64, event: &Event);
}

/// Ignores every event.
impl Observer for () {
    fn event(&mut self, _: u64, _: &Event) {}
}

/// Sends every event, without waiting for the receiver.
impl Observer for Sender<(u64, Event)> {
    fn event(&mut self, ticks: u64, event: &Event) {
        // A closed receiver stops nothing.
        let _ = self.send((ticks, event.clone()));
    }
}

impl<F: FnMut(u64, &Event)> Observer for F {
    fn event(&mut self, ticks: u64, event: &Event) {
        self(ticks, event);
    }
}

/// Cancels an update, from any thread or from an [`Observer`].
///
/// Honoured before each step up to the jump, also after the box was sealed: the update is rolled
/// back. Later it has no effect.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<Cancel>);

#[derive(Debug, Default)]
struct Cancel {
    is_set: AtomicBool,
    /// For waiting in poll(2).
    event: OnceLock<OwnedFd>,
}

impl CancelFlag {
    /// A flag that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag.
    pub fn cancel(&self) {
        self.0.is_set.store(true, Ordering::SeqCst);
        if let Some(event) = self.0.event.get() {
            // It cannot be full: nobody else writes to it.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_set.load(Ordering::SeqCst)
    }

    /// A descriptor that becomes readable once the flag is set.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM.
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>, Errno> {
        if self.0.event.get().is_none() {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            // If another thread has just set one, use that.
            let _ = self.0.event.set(event);
        }
        let event = self.0.event.get().ok_or(Errno::NOMEM)?;
        if self.is_cancelled() {
            // The flag may have been set before the descriptor existed.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
        Ok(event.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_readable(fd: BorrowedFd<'_>) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn the_descriptor_tells_of_a_cancel_before_and_after() {
        let flag = CancelFlag::new();
        assert!(!is_readable(flag.descriptor().unwrap()));
        flag.clone().cancel();
        assert!(is_readable(flag.descriptor().unwrap()));
        let flag = CancelFlag::new();
        flag.cancel();
        assert!(is_readable(flag.descriptor().unwrap()));
    }
}
