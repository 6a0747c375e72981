//! Taking part in an update that a client carries out for many guests.
//!
//! The client says when to go on, step by step, on one connection; when that closes, this
//! guest is rolled back. The host is the client's to load and to leave.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use vmm_fdbox::update::{
    CancelFlag, Event, Host, Observer, Outcome, PartyError, Session, Step, UpdateError,
};
use vmm_fdbox::{BoxStore, Control, Deadline, Finding};

use super::{Movable, Moving, Order, Reporter, Watch, finish, in_update, kept, party_error, plan};
use crate::service::api::joint::JoinRequest;
use crate::service::api::peer::{Peer, Received};
use crate::service::api::protocol::{Reply, Request};
use crate::service::told::UpdateEnd;
use crate::service::vmm::Vmm;

/// How long a cancel goes unnoticed while the client has nothing to say.
const LOOK: Duration = Duration::from_millis(50);

/// Joins an update for a client.
pub(crate) fn serve(vmm: &Vmm, request: &JoinRequest, peer: &mut dyn Peer) {
    let machine = vmm.machine();
    let order = plan(machine, request.box_name.as_deref(), &request.fail_at);
    let order = order.map(|plan| Order {
        plan,
        dry_run: false,
        cancel_after: None,
        position: request.position,
        watch: Watch::default(),
    });
    let reply = in_update(vmm, order, |order| match Control::open() {
        Ok(control) => take_part(&control, machine, order, request.same_kernel, peer),
        Err(error) => UpdateEnd::new(&Outcome::NothingChanged {
            step: Step::Preflight,
            error: error.into(),
        }),
    });
    finish(vmm, &reply, peer);
}

/// Stops a guest that a client is about to leave behind, in the same way.
pub(crate) fn set_down(vmm: &Vmm, peer: &mut dyn Peer) {
    let cancel = match vmm.begin_update() {
        Ok(cancel) => cancel,
        Err(refusal) => {
            peer.send(&refusal.into());
            return;
        }
    };
    let end = stand_by(vmm.machine(), cancel, peer);
    vmm.end_update(&end);
    finish(vmm, &Reply::UpdateEnd(end), peer);
}

/// Keeps the guest stopped until the kernel goes away, or the client wants it to run on.
fn stand_by<M: Movable>(machine: &M, cancel: CancelFlag, peer: &mut dyn Peer) -> UpdateEnd {
    let began = Instant::now();
    let line = Line {
        peer: RefCell::new(peer),
        cancel,
    };
    machine.park();
    let error = match machine.leave_host() {
        _ if machine.has_ended() => UpdateError::Guest {
            what: "The guest cannot be stopped",
            source: "it has come to its end".into(),
        },
        Err(error) => UpdateError::Guest {
            what: "What the guest wrote cannot be made safe",
            source: party_error(error),
        },
        Ok(()) => {
            line.send(&Reply::Ok);
            // Saying it twice changes nothing.
            while let Next::GoOn = line.next(&Request::SetDown, || line.pass_on_cancel()) {}
            UpdateError::Cancelled
        }
    };
    machine.run_on();
    UpdateEnd::new(&Outcome::RolledBack {
        step: Step::Jump,
        error,
        problems: Vec::new(),
        paused_ns: Some(began.elapsed().as_nanos() as u64),
    })
}

/// What the client wants next.
enum Next {
    GoOn,
    /// It wants the update undone, or is gone.
    Undo,
}

/// The client, shared by those who speak to it.
struct Line<'a> {
    peer: RefCell<&'a mut dyn Peer>,
    cancel: CancelFlag,
}

impl Line<'_> {
    fn send(&self, reply: &Reply) {
        // Whether the client is gone shows when it is listened to.
        self.peer.borrow_mut().send(reply);
    }

    fn step_done(&self, step: Step) {
        let step = step.name().into();
        self.send(&Reply::StepDone { step });
    }

    /// Waits for the client's word. `on_cancel` is asked once when somebody else cancels.
    fn next(&self, expected: &Request, mut on_cancel: impl FnMut() -> Option<Next>) -> Next {
        let mut cancelled = false;
        loop {
            let received = self.peer.borrow_mut().receive(Some(LOOK));
            match received {
                Received::Request(request) if request == *expected => return Next::GoOn,
                Received::Request(Request::RollBack) | Received::Gone => return Next::Undo,
                Received::Request(_) => self.refuse("This is not the next step of the update"),
                Received::Nonsense(message) => self.refuse(&message),
                Received::Nothing => {}
            }
            if self.cancel.is_cancelled()
                && !std::mem::replace(&mut cancelled, true)
                && let Some(next) = on_cancel()
            {
                return next;
            }
        }
    }

    /// The client may be about to jump, and a guest that runs again would be lost.
    fn pass_on_cancel(&self) -> Option<Next> {
        self.send(&Reply::CancelAsked);
        None
    }

    fn refuse(&self, message: &str) {
        self.send(&Reply::Error {
            message: message.into(),
        });
    }
}

/// The host as a VMM sees it that takes part: leaving is the client's business.
struct TheirHost<'a> {
    line: &'a Line<'a>,
    same_kernel: bool,
}

impl Host for TheirHost<'_> {
    fn preflight(&mut self) -> Vec<Finding> {
        Vec::new()
    }

    fn leaves_kernel(&self) -> bool {
        !self.same_kernel
    }

    fn load(&mut self) -> Result<(), PartyError> {
        Ok(())
    }

    fn unload(&mut self) -> Result<(), PartyError> {
        Ok(())
    }

    /// Tells the client that the guest stands still and waits: for the kernel to go away, or
    /// for the client's word. A cancel is passed on and no more.
    fn jump(&mut self, _: Deadline) -> Result<(), PartyError> {
        self.line.step_done(Step::Save);
        let pass_on = || self.line.pass_on_cancel();
        match self.line.next(&Request::HandOver, pass_on) {
            Next::GoOn if self.same_kernel => Ok(()),
            Next::GoOn => Err("The client does not leave this kernel".into()),
            Next::Undo => Err("The update of all guests was rolled back".into()),
        }
    }
}

/// Goes through the update as the client says.
fn take_part<S: BoxStore, M: Movable>(
    store: &S,
    machine: &M,
    order: Order,
    same_kernel: bool,
    peer: &mut dyn Peer,
) -> UpdateEnd {
    let Order {
        plan,
        position,
        watch,
        ..
    } = order;
    let line = Line {
        peer: RefCell::new(peer),
        cancel: plan.cancel.clone(),
    };
    let mut send = |reply: &Reply| line.send(reply);
    let mut reporter = Reporter::new(plan.clock, true, &mut send);
    let mut observer = |ticks: u64, event: &Event| {
        watch.tell(event);
        reporter.report(ticks, event);
    };
    let mut guest = Moving {
        machine,
        position,
        carried: false,
        kept: kept(store),
    };
    let mut host = TheirHost {
        line: &line,
        same_kernel,
    };
    let update = Session::new(store, &mut host, &mut guest, plan).observed_by(&mut observer);
    let end = step_by_step(update, &line);
    reporter.end(end)
}

fn step_by_step<S: BoxStore, M: Movable, O: Observer>(
    update: Session<&S, &mut TheirHost<'_>, &mut Moving<'_, M>, O>,
    line: &Line<'_>,
) -> UpdateEnd {
    let ready = match update.preflight() {
        Ok(ready) => ready,
        Err(outcome) => return UpdateEnd::new(&outcome),
    };
    line.step_done(Step::Preflight);
    let undo = || Some(Next::Undo);
    if let Next::Undo = line.next(&Request::Prepare, undo) {
        return UpdateEnd::new(&ready.cancel());
    }
    let prepared = match ready.prepare() {
        Ok(prepared) => prepared,
        Err(outcome) => return UpdateEnd::new(&outcome),
    };
    line.step_done(Step::Seal);
    if let Next::Undo = line.next(&Request::PauseAndSave, undo) {
        return UpdateEnd::new(&prepared.cancel());
    }
    let outcome = match prepared.pause() {
        Ok(paused) => paused.jump(),
        Err(outcome) => *outcome,
    };
    UpdateEnd::new(&outcome)
}

#[cfg(test)]
mod tests;
