//! The VMM that has a guest, driven by a coordinator.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::down::idle;
use super::leaving_vmm::{Leaving, LeavingVmm, Left};
use super::line::{Line, Next, Reporter};
use super::wire::{BOX_FD, HOME_FD, Join, LeavingReply, LeavingRequest};
use super::{Channel, ChannelError, Lent};
use crate::control::Info;
use crate::error::Chain;
use crate::name::BoxName;
use crate::passed::{PassedBox, PassedStore};
use crate::update::{
    CancelFlag, Destination, Event, Guest, LeftByOthers, Limits, Observer, Outcome, Paused, Plan,
    Prepared, Ready, Session, Step, Stopped, UpdateError,
};

/// Follows the coordinator at the other end of a socket until it is done or gone. The coordinator
/// passes the box.
pub fn serve_leaving<V: LeavingVmm>(socket: UnixStream, vmm: &mut V) -> Left {
    let expected = |name, info| Arc::new(PassedBox::expected(name, info));
    serve_leaving_into(socket, vmm, expected)
}

/// Like [`serve_leaving`], for other implementations of boxes.
pub fn serve_leaving_into<V: LeavingVmm, S: PassedStore + Clone>(
    socket: UnixStream,
    vmm: &mut V,
    store: impl FnOnce(BoxName, Info) -> S,
) -> Left {
    let line = Line::new(Channel::new(socket));
    let Some((join, _)) = line.begin(|order| match order {
        LeavingRequest::Join(join) => Ok(join),
        other => Err(other),
    }) else {
        return Left::Here;
    };
    let plan = match vmm.join(&join) {
        Ok(plan) => plan,
        Err(error) => {
            line.say(&stopped(Stopped::untouched(Chain(&*error).to_string())));
            return idle(&line, vmm);
        }
    };
    let mut limits = Limits::from(join.limits);
    limits.jump = plan.limits.jump;
    let plan = Plan {
        box_name: join.box_name.clone(),
        limits,
        fail_at: join.fail_at,
        ..plan
    };
    let store = store(join.box_name.clone(), join.module.into());
    match update(&line, vmm, &join, plan, store) {
        Left::Here => idle(&line, vmm),
        left => left,
    }
}

fn stopped(stopped: Stopped) -> LeavingReply {
    LeavingReply::Stopped(stopped)
}

/// One update, from preflight to its end.
fn update<V: LeavingVmm, S: PassedStore + Clone>(
    line: &Line<LeavingRequest>,
    vmm: &mut V,
    join: &Join,
    plan: Plan,
    store: S,
) -> Left {
    let cancel = plan.cancel.clone();
    let reporter = RefCell::new(Reporter::new(line, plan.clock, join.to));
    let mut watch = vmm.observer();
    let observer = |ticks: u64, event: &Event| {
        watch(ticks, event);
        reporter.borrow_mut().report(ticks, event);
    };
    let kinds = vmm.kinds();
    let session = Session::new(store.clone(), LeftByOthers(join.to), &mut *vmm, plan);
    let steps = Steps {
        line,
        to: join.to,
        cancel,
        store,
    };
    let outcome = match session.observed_by(observer).preflight() {
        Ok(ready) => {
            let findings = reporter.borrow().warnings();
            let pid = std::process::id();
            line.say(&LeavingReply::Joined {
                pid,
                kinds,
                findings,
            });
            steps.go(ready)
        }
        Err(outcome) => *outcome,
    };
    vmm.ended(&outcome);
    let mut end = Stopped::of(&outcome);
    let held = reporter.into_inner();
    end.findings.extend(held.warnings());
    held.flush();
    match outcome {
        Outcome::HandedOver => {
            hand_over(line, vmm, steps.lends());
            Left::HandedOver
        }
        Outcome::GuestLost { .. } => {
            line.say(&stopped(end.clone()));
            Left::Lost(end)
        }
        _ => {
            line.say(&stopped(end));
            Left::Here
        }
    }
}

/// Hands the guest over; from here on it is gone, whatever else happens.
fn hand_over<V: LeavingVmm>(line: &Line<LeavingRequest>, vmm: &mut V, lends: bool) {
    let lent = match lends {
        true => vmm.lend(Leaving::HandedOver).unwrap_or_default(),
        false => Lent::default(),
    };
    let word = LeavingReply::HandedOver {
        lent: lent.value.clone(),
    };
    if let Err(ChannelError::TooManyFds(_) | ChannelError::TooLong) = line.lend(&word, &lent) {
        let lent = Lent::default().value;
        line.say(&LeavingReply::HandedOver { lent });
    }
}

/// What every step needs.
struct Steps<'a, S> {
    line: &'a Line<LeavingRequest>,
    to: Destination,
    cancel: CancelFlag,
    store: S,
}

impl<S: PassedStore + Clone> Steps<'_, S> {
    fn go<V: LeavingVmm, O: Observer>(&self, ready: Ready<S, LeftByOthers, &mut V, O>) -> Outcome {
        let mut fds = match self.line.next(Some(&self.cancel), |order| {
            *order == LeavingRequest::Prepare {}
        }) {
            Next::Request(heard) => heard.fds,
            Next::CancelAsked | Next::Undo | Next::Gone => return ready.cancel(),
        };
        let state = match self.receive(&mut fds) {
            Ok(state) => state,
            Err(error) => return ready.fail(Step::CreateBox, error),
        };
        let prepared = match state {
            Some(state) => ready.prepare_home(state),
            None => ready.prepare(),
        };
        let mut prepared = match prepared {
            Ok(prepared) => prepared,
            Err(outcome) => return *outcome,
        };
        if let Err(error) = self.tell(&mut **prepared.guest(), Leaving::Prepared) {
            return prepared.fail(Step::Prebuild, error);
        }
        self.pause(prepared)
    }

    fn lends(&self) -> bool {
        self.to == Destination::Successor
    }

    /// Receives the box or, if that is another kernel's, the guest's state in it.
    fn receive(&self, fds: &mut Vec<(String, OwnedFd)>) -> Result<Option<OwnedFd>, UpdateError> {
        let (expected, what) = match self.to {
            Destination::Home => (HOME_FD, "The coordinator passed no state"),
            _ => (BOX_FD, "The coordinator passed no box"),
        };
        let at = fds.iter().position(|(name, _)| name == expected);
        let missing = || UpdateError::Host {
            what,
            source: "its descriptor is missing".into(),
        };
        let (_, fd) = fds.swap_remove(at.ok_or_else(missing)?);
        match self.to {
            Destination::Home => Ok(Some(fd)),
            _ => Ok(self.store.receive(fd).map(|()| None)?),
        }
    }

    fn pause<V: LeavingVmm, O: Observer>(
        &self,
        mut prepared: Prepared<S, LeftByOthers, &mut V, O>,
    ) -> Outcome {
        let fits = |order: &LeavingRequest| {
            matches!(order, LeavingRequest::Quiesce {} | LeavingRequest::Pause {})
        };
        loop {
            match self.line.next(Some(&self.cancel), fits) {
                Next::Request(heard) if heard.message == (LeavingRequest::Quiesce {}) => {
                    prepared = match prepared.quiesce() {
                        Ok(prepared) => prepared,
                        Err(outcome) => return *outcome,
                    };
                    self.line.say(&LeavingReply::Quiet {});
                }
                Next::Request(_) => break,
                Next::CancelAsked | Next::Undo | Next::Gone => return prepared.cancel(),
            }
        }
        let mut paused = match prepared.pause() {
            Ok(paused) => paused,
            Err(outcome) => return *outcome,
        };
        match self.tell(&mut **paused.guest(), Leaving::Saved) {
            Ok(()) => self.wait(paused),
            Err(error) => paused.fail(Step::Save, error),
        }
    }

    /// Keeps the guest paused until the kernel ends, or the coordinator says so or goes away.
    fn wait<V: LeavingVmm, O: Observer>(
        &self,
        mut paused: Paused<S, LeftByOthers, &mut V, O>,
    ) -> Outcome {
        let mut cancel = Some(&self.cancel);
        loop {
            let fits = |order: &LeavingRequest| {
                matches!(
                    order,
                    LeavingRequest::TakeBack {} | LeavingRequest::HandOver {}
                )
            };
            match self.line.next(cancel, fits) {
                Next::Request(heard) if heard.message == (LeavingRequest::HandOver {}) => {
                    // The box decides who has the guest, not the coordinator.
                    if paused.can_be_left() {
                        return paused.jump();
                    }
                    let why = "Nobody has taken the guest out of its box, or the box is gone";
                    self.line.refuse(why);
                }
                Next::Request(_) => match paused.take_back() {
                    Ok(()) => self.line.say(&LeavingReply::TakenBack {}),
                    Err(error) if error.is_box_gone() => {
                        let message = Chain(&error).to_string();
                        self.line.say(&LeavingReply::BoxGone { message });
                    }
                    Err(error) => return paused.fail(Step::Jump, error),
                },
                // The coordinator may be about to jump, and a guest that ran again would be lost.
                Next::CancelAsked => {
                    cancel = None;
                    self.line.say(&LeavingReply::CancelAsked {});
                }
                // It has made sure that nobody else has the guest, whatever became of the box.
                Next::Undo => return paused.undo(),
                Next::Gone => return paused.cancel(),
            }
        }
    }

    /// Reports that a step is done, with what the new VMM gets.
    fn tell<V: LeavingVmm>(&self, vmm: &mut V, at: Leaving) -> Result<(), UpdateError> {
        let cannot = |source| UpdateError::Guest {
            what: "What the new VMM needs cannot be lent",
            source,
        };
        let lent = match self.lends() {
            true => vmm.lend(at).map_err(cannot)?,
            false => Lent::default(),
        };
        let value = lent.value.clone();
        let word = match at {
            Leaving::Prepared => LeavingReply::Prepared { lent: value },
            Leaving::Saved | Leaving::HandedOver => LeavingReply::Saved { lent: value },
        };
        match self.line.lend(&word, &lent) {
            // A closed connection is noticed at the next receive.
            Ok(()) | Err(ChannelError::Gone | ChannelError::System(_) | ChannelError::Late(_)) => {
                Ok(())
            }
            Err(error) => Err(cannot(error.into())),
        }
    }
}
