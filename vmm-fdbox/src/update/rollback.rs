//! Undoing an attempt: everything that was done, whatever fails along the way.
//!
//! A guest must not run twice. So it continues here only if nobody has taken it out of its box, and
//! only when nobody can any more: the state that a resume would need is removed first.

use std::os::fd::OwnedFd;

use super::attempt::{Attempt, Slot, StepFailure};
use rustix::io::Errno;

use super::outcome::{Outcome, UpdateError};
use super::parties::{Guest, Host, NamedFd};
use super::state_fd_name;
use super::step::Step;
use super::watch::{Event, Observer};
use crate::boxes::AnyBox;
use crate::error::{BoxError, Chain};
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Attempt<S, H, G, O> {
    /// Undoes what was done, the guest's part first, because it may be waiting.
    pub(super) fn roll_back(&mut self, StepFailure { step, error }: StepFailure) -> Outcome {
        self.unfinished = false;
        if !(self.loaded || self.touched || self.quiesced) && matches!(self.slot, Slot::None) {
            return Outcome::NothingChanged { step, error };
        }
        self.tell(&Event::RollingBack);
        let mut problems = Vec::new();
        let unsealed = self.unseal(&mut problems);
        if self.saved && matches!(unsealed, Err(Errno::AGAIN | Errno::BUSY)) {
            // This kernel is ending, with the whole guest on its way to the next one; or the lifeboat has it.
            return Outcome::HandedOver;
        }
        if self.jumped && unsealed == Err(Errno::NODEV) || self.is_taken(&mut problems) {
            let problem = "Another VMM has taken the guest out of its box".to_owned();
            self.problem(&mut problems, problem);
            return Outcome::GuestLost {
                step,
                error,
                problems,
            };
        }
        if let Some(state) = &mut self.state {
            state.clear();
        }
        self.return_fds(&mut problems);
        let resumed = self.resume(&mut problems);
        self.delete_box(&mut problems);
        self.unload(&mut problems);
        match resumed {
            Err(()) => Outcome::GuestLost {
                step,
                error,
                problems,
            },
            Ok(None) if !self.touched && problems.is_empty() => {
                Outcome::NothingChanged { step, error }
            }
            Ok(paused_ns) => Outcome::RolledBack {
                step,
                error,
                problems,
                paused_ns,
            },
        }
    }

    fn problem(&mut self, problems: &mut Vec<String>, problem: String) {
        self.tell(&Event::Problem(problem.clone()));
        problems.push(problem);
    }

    fn unload(&mut self, problems: &mut Vec<String>) {
        if std::mem::take(&mut self.loaded)
            && let Err(error) = self.host.unload()
        {
            let stays = format!("The next kernel stays loaded: {}", Chain(&*error));
            self.problem(problems, stays);
        }
    }

    /// Unseals the box, if it is sealed.
    fn unseal(&mut self, problems: &mut Vec<String>) -> Result<(), Errno> {
        let slot = match std::mem::replace(&mut self.slot, Slot::None) {
            Slot::Sealed(sealed) => sealed.unseal(),
            other => {
                self.slot = other;
                return Ok(());
            }
        };
        match slot {
            Ok(open) => {
                self.slot = Slot::Open(open);
                Ok(())
            }
            Err(failed) => {
                let errno = failed.error.errno();
                if errno == Errno::INVAL
                    && let Ok(AnyBox::Open(open)) = self.store.open_box(&self.plan.box_name)
                {
                    // Somebody else has unsealed it; its content shows what else they did.
                    self.slot = Slot::Open(open);
                    return Ok(());
                }
                self.problem(problems, failed.error.to_string());
                match errno {
                    Errno::PIPE => self.box_is_gone(),
                    _ => self.slot = Slot::Sealed(failed.sealed),
                }
                Err(errno)
            }
        }
    }

    /// There is nothing to take out of it, or to delete.
    fn box_is_gone(&mut self) {
        self.slot = Slot::None;
        self.boxed.clear();
    }

    /// Whether nothing is lost if this process ends.
    pub(super) fn can_be_left(&self) -> bool {
        match &self.slot {
            Slot::Sealed(sealed) => match sealed.fds() {
                Ok(_) => true,
                Err(error) => is_gone(&error),
            },
            Slot::Open(_) if self.taken_back.is_some() => false,
            Slot::Open(open) => match open.fds() {
                Ok(fds) => !fds.iter().any(|fd| fd.name == state_fd_name()),
                Err(error) => is_gone(&error),
            },
            Slot::Hosts(state) => is_given_back(state),
            Slot::None => false,
        }
    }

    /// Takes the state back, if the box is open and nobody else has.
    pub(super) fn take_back(&mut self) -> Result<(), UpdateError> {
        if let Slot::Open(open) = &self.slot {
            self.taken_back = Some(open.get(&state_fd_name())?);
        }
        Ok(())
    }

    /// Whether somebody took the guest for good. If not, nobody can any more: a takeover commits
    /// with the state, which is removed from the box here.
    fn is_taken(&mut self, problems: &mut Vec<String>) -> bool {
        if let Slot::Hosts(state) = &self.slot {
            return is_given_back(state);
        }
        let Slot::Open(open) = &self.slot else {
            return false;
        };
        if !self.jumped || self.taken_back.is_some() {
            return false;
        }
        match open.get(&state_fd_name()) {
            Ok(_) => return false,
            Err(error) if is_gone(&error) => return true,
            Err(error) if self.alone && error.errno() == Errno::PIPE => return false,
            Err(_) => {}
        }
        if self.host.is_left_by_others() && !self.host.leaves_kernel() {
            return self.may_be_taken();
        }
        // The state cannot be taken out, so whoever may still want it must be gone before checking
        // for it.
        self.unload(problems);
        let Slot::Open(open) = &self.slot else {
            return false;
        };
        match open.fds() {
            Ok(fds) => !fds.iter().any(|fd| fd.name == state_fd_name()),
            Err(_) => true,
        }
    }

    /// The state could not be taken out, and this process cannot end whoever may want it. The guest
    /// continues here only if they can no longer get it: try once more, with one descriptor less in
    /// use.
    fn may_be_taken(&mut self) -> bool {
        self.claim = None;
        match &self.slot {
            Slot::Open(open) => open.get(&state_fd_name()).is_err(),
            _ => true,
        }
    }

    fn return_fds(&mut self, problems: &mut Vec<String>) {
        let mut back = std::mem::take(&mut self.held);
        if let Slot::Open(open) = &self.slot {
            let mut errors = Vec::new();
            let is_box_gone = |errors: &[BoxError]| {
                let last = errors.last();
                last.is_some_and(|error| error.errno() == Errno::PIPE)
            };
            self.boxed.retain(|name| match open.get(name) {
                _ if is_box_gone(&errors) => false,
                Ok(fd) => {
                    back.push(NamedFd {
                        name: name.clone(),
                        fd,
                    });
                    false
                }
                Err(error) => {
                    // A descriptor that is not in the box is no reason to keep the box.
                    let stays = error.errno() != Errno::NOENT;
                    errors.push(error);
                    stays
                }
            });
            if is_box_gone(&errors) {
                self.box_is_gone();
            }
            for error in errors {
                self.problem(problems, error.to_string());
            }
        }
        for NamedFd { name, fd } in back {
            if let Err(error) = self.guest.give_back(&name, fd) {
                self.problem(
                    problems,
                    format!("The guest refused '{name}' back: {}", Chain(&*error)),
                );
            }
        }
    }

    /// Continues the guest if it was paused or its devices were asked to come to rest, and returns
    /// how long it was paused.
    fn resume(&mut self, problems: &mut Vec<String>) -> Result<Option<u64>, ()> {
        if !self.quiesced {
            return Ok(None);
        }
        match self.guest.resume_in_place() {
            Ok(()) => {
                let clock = &self.plan.clock;
                let ns = |paused_at| clock.to_ns(clock.now().saturating_sub(paused_at));
                Ok(self.paused_at.map(ns))
            }
            Err(error) => {
                self.problem(
                    problems,
                    format!("The guest cannot continue: {}", Chain(&*error)),
                );
                Err(())
            }
        }
    }

    /// Deletes the box unless something of the guest is still in it.
    fn delete_box(&mut self, problems: &mut Vec<String>) {
        let name = self.plan.box_name.clone();
        match &self.slot {
            Slot::None | Slot::Hosts(_) => {}
            Slot::Open(open) if self.boxed.is_empty() => {
                // If somebody else deletes it, they do so only if it is empty.
                let _ = open.get(&state_fd_name());
                if let Err(error) = self.store.delete(&name) {
                    self.problem(problems, error.to_string());
                }
            }
            Slot::Open(_) | Slot::Sealed(_) => {
                self.problem(problems, format!("Box {name} stays, with what is in it"));
            }
        }
    }
}

/// Whether the lifeboat has given the box back, which revokes its files.
fn is_given_back(state: &OwnedFd) -> bool {
    rustix::io::pread(state, &mut [0; 1], 0) == Err(Errno::IO)
}

fn is_gone(error: &BoxError) -> bool {
    matches!(error.errno(), Errno::NOENT | Errno::NODEV)
}

impl<S: BoxStore, H: Host, G: Guest, O: Observer> Drop for Attempt<S, H, G, O> {
    /// An update that is dropped half-way is rolled back.
    fn drop(&mut self) {
        if self.unfinished {
            let _ = self.roll_back(StepFailure::cancelled(Step::Preflight));
        }
    }
}
