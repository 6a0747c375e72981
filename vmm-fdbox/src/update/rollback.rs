//! Undoing an attempt: all of what was done, whatever fails on the way.

use super::attempt::{Attempt, Failure, Slot};
use rustix::io::Errno;

use super::outcome::{Outcome, UpdateError};
use super::parties::{Guest, Host, NamedFd};
use super::state_fd_name;
use super::step::Step;
use super::watch::Event;
use crate::error::{BoxError, Chain};
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};

impl<S: BoxStore, H: Host, G: Guest> Attempt<'_, S, H, G> {
    /// The failure of a step that never began, because somebody asked to stop.
    pub(super) fn cancelled(step: Step) -> Failure {
        Failure {
            step,
            error: UpdateError::Cancelled,
        }
    }

    /// Undoes what was done, the guest's part first: it may be waiting.
    pub(super) fn roll_back(&mut self, Failure { step, error }: Failure) -> Outcome {
        self.unfinished = false;
        if !(self.loaded || self.touched || self.paused_at.is_some())
            && matches!(self.slot, Slot::None)
        {
            return Outcome::NothingChanged { step, error };
        }
        self.tell(&Event::RollingBack);
        let mut problems = Vec::new();
        self.unseal(&mut problems);
        if self.is_taken() {
            let problem = "Another VMM has taken the guest out of its box".to_owned();
            self.problem(&mut problems, problem);
            return Outcome::GuestLost {
                step,
                error,
                problems,
            };
        }
        self.return_fds(&mut problems);
        let resumed = self.resume(&mut problems);
        self.delete_box(&mut problems);
        if self.loaded
            && let Err(error) = self.host.unload()
        {
            self.problem(
                &mut problems,
                format!("The next kernel stays loaded: {}", Chain(&*error)),
            );
        }
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

    fn unseal(&mut self, problems: &mut Vec<String>) {
        self.slot = match std::mem::replace(&mut self.slot, Slot::None) {
            Slot::Sealed(sealed) => match sealed.unseal() {
                Ok(open) => Slot::Open(open),
                Err(failed) => {
                    self.problem(problems, failed.error.to_string());
                    Slot::Sealed(failed.sealed)
                }
            },
            other => other,
        };
    }

    /// Whether somebody took the guest for good. If not, nobody can any more: the
    /// state is what a takeover commits with, and it leaves the box here.
    fn is_taken(&self) -> bool {
        let Slot::Open(open) = &self.slot else {
            return false;
        };
        let gone = |error: BoxError| matches!(error.errno(), Errno::NOENT | Errno::NODEV);
        self.jumped && open.get(&state_fd_name()).is_err_and(gone)
    }

    fn return_fds(&mut self, problems: &mut Vec<String>) {
        let mut back = std::mem::take(&mut self.held);
        if let Slot::Open(open) = &self.slot {
            let mut errors = Vec::new();
            self.boxed.retain(|name| match open.get(name) {
                Ok(fd) => {
                    back.push(NamedFd {
                        name: name.clone(),
                        fd,
                    });
                    false
                }
                Err(error) => {
                    errors.push(error.to_string());
                    // What is not in the box is no reason to keep it.
                    error.errno() != Errno::NOENT
                }
            });
            errors
                .into_iter()
                .for_each(|error| self.problem(problems, error));
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

    /// Runs the guest on if it was paused, and says for how long it was.
    fn resume(&mut self, problems: &mut Vec<String>) -> Result<Option<u64>, ()> {
        let Some(paused_at) = self.paused_at else {
            return Ok(None);
        };
        match self.guest.resume_in_place() {
            Ok(()) => {
                let clock = &self.plan.clock;
                Ok(Some(clock.to_ns(clock.now().saturating_sub(paused_at))))
            }
            Err(error) => {
                self.problem(
                    problems,
                    format!("The guest cannot run on: {}", Chain(&*error)),
                );
                Err(())
            }
        }
    }

    /// Deletes the box unless something of the guest's is still in it.
    fn delete_box(&mut self, problems: &mut Vec<String>) {
        let name = self.plan.box_name.clone();
        match &self.slot {
            Slot::None => {}
            Slot::Open(_) if self.boxed.is_empty() => {
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

impl<S: BoxStore, H: Host, G: Guest> Drop for Attempt<'_, S, H, G> {
    /// An update that is dropped half-way is given up.
    fn drop(&mut self) {
        if self.unfinished {
            let _ = self.roll_back(Self::cancelled(Step::Preflight));
        }
    }
}
