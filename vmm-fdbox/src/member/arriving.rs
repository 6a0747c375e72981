//! The VMM that is to receive a guest, driven by a coordinator.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::line::{Line, Next, Request};
use super::wire::{Arrive, ArrivingReply, ArrivingRequest, BOX_FD, Failed};
use super::{Channel, Heard, Lent};
use crate::control::Info;
use crate::error::{BoxError, Chain};
use crate::frame::{Frame, KnownSection};
use crate::name::BoxName;
use crate::passed::PassedBox;
use crate::store::BoxStore;
use crate::update::{
    Arrival, Arriving, Finished, PartyError, ResumeFailed, ResumePlan, Step, UpdateError,
};

impl Request for ArrivingRequest {
    fn refusal(message: String) -> impl Serialize {
        ArrivingReply::Failed(Failed {
            step: Step::Open,
            error: message.clone(),
            message,
            can_retry: true,
        })
    }

    fn undoes(&self) -> bool {
        false
    }
}

/// A VMM without a guest, for [`serve_arriving`]. It keeps what it builds in itself.
pub trait ArrivingVmm {
    /// The sections of the state that it can read.
    fn known(&self) -> &[KnownSection];

    /// Opens whatever it needs of this host, such as `/dev/kvm`. Nothing of the guest is here yet.
    ///
    /// # Errors
    /// Why it cannot take any guest.
    fn get_ready(&mut self, arrive: &Arrive) -> Result<(), PartyError>;

    /// Called when the state of a guest that waits in its box has been read; nobody has the guest
    /// yet. Opens and locks host resources that nobody else should get first: the VMMs of all
    /// guests that are resumed together do so before any of them proceeds. Errors are left to
    /// [`restore`](Self::restore). Default: does nothing.
    fn reserve(&mut self, frame: &Frame<Vec<u8>>) {
        let _ = frame;
    }

    /// The guest's place in the order of resumes, from its state. Default: none.
    fn position(&self, frame: &Frame<Vec<u8>>) -> Option<u32> {
        let _ = frame;
        None
    }

    /// Takes out what is in the box and builds everything but the state. The guest still runs in
    /// another VMM: of this kernel, which lends what this one is to have, or of another kernel beside this
    /// one ([`Arrive::standby`]); then nothing is lent, and nothing may be written to what is taken out. Only
    /// called if there is such a VMM.
    ///
    /// # Errors
    /// The guest stays where it is.
    fn prebuild<S: BoxStore>(
        &mut self,
        arriving: &mut Arriving<S>,
        lent: Lent,
    ) -> Result<(), PartyError>;

    /// Takes the rest out of the box and restores the state into what was built. The guest does not
    /// run yet.
    ///
    /// # Errors
    /// The guest stays where it is.
    fn restore<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
        lent: Lent,
    ) -> Result<(), PartyError>;

    /// Closes whatever was built from the box: it is about to be sealed again, or the guest
    /// continues in its old VMM.
    fn abandon(&mut self);

    /// Runs the guest, which belongs to this VMM from now on, and returns the cycle counter at its
    /// first entry, or the current one if it is to arrive paused.
    ///
    /// # Errors
    /// The guest is lost: nobody else can take it any more.
    fn run(&mut self) -> Result<u64, PartyError>;

    /// Returns a report on the guest for the coordinator. The guest runs meanwhile.
    fn report(&mut self, finished: Finished) -> Value;

    /// Takes what the old VMM still had. Default: drops it.
    fn adopt(&mut self, lent: Lent) {
        drop(lent);
    }
}

/// The result for a VMM that was to receive a guest.
#[derive(Debug)]
pub enum Arrived {
    /// This process has the guest. If it came from another VMM of this kernel, more may follow.
    Here(Adoption),
    /// This process does not have the guest and must end without shutting anything of it down.
    NotHere(Option<Failed>),
}

/// Receives what the old VMM still had: call [`wait`](Self::wait) in a thread of its own.
#[derive(Debug)]
pub struct Adoption(Channel);

impl Adoption {
    /// Waits for the coordinator; returns when that is done.
    pub fn wait(self, mut adopt: impl FnMut(Lent)) {
        let line = Line::<ArrivingRequest>::new(self.0);
        let is_lent = |order: &ArrivingRequest| matches!(order, ArrivingRequest::Adopt { .. });
        while let Next::Request(heard) = line.next(None, is_lent) {
            let (_, lent) = lent(heard);
            adopt(lent);
            line.say(&ArrivingReply::Adopted {});
        }
    }
}

/// Follows the coordinator at the other end of a socket until the guest is here or has failed to
/// arrive. The coordinator passes the box.
pub fn serve_arriving<V: ArrivingVmm>(socket: UnixStream, vmm: &mut V) -> Arrived {
    let passed = |name, info, fd| PassedBox::new(name, info, fd).map(Arc::new);
    serve_arriving_from(socket, vmm, passed)
}

/// Like [`serve_arriving`], for other implementations of boxes.
pub fn serve_arriving_from<V: ArrivingVmm, S: BoxStore + Clone>(
    socket: UnixStream,
    vmm: &mut V,
    open: impl FnOnce(BoxName, Info, OwnedFd) -> Result<S, BoxError>,
) -> Arrived {
    let line = Line::new(Channel::new(socket));
    let Some((arrive, fds)) = line.begin(|order| match order {
        ArrivingRequest::Arrive(arrive) => Ok(arrive),
        other => Err(other),
    }) else {
        return Arrived::NotHere(None);
    };
    match take(&line, vmm, &arrive, fds, open) {
        Ok(()) => Arrived::Here(Adoption(line.into_channel())),
        Err(End::Failed(failed)) => {
            line.say(&ArrivingReply::Failed(failed.clone()));
            Arrived::NotHere(Some(failed))
        }
        Err(End::Gone) => Arrived::NotHere(None),
    }
}

/// Why the guest did not arrive.
enum End {
    Failed(Failed),
    /// The coordinator is gone, so nobody can commit any more.
    Gone,
}

impl From<Box<ResumeFailed>> for End {
    fn from(failed: Box<ResumeFailed>) -> Self {
        Self::Failed(Failed {
            step: failed.step,
            error: Chain(&failed.error).to_string(),
            message: failed.to_string(),
            can_retry: failed.can_retry(),
        })
    }
}

fn failed(step: Step, error: &(dyn std::error::Error + 'static)) -> End {
    let error = Chain(error).to_string();
    End::Failed(Failed {
        step,
        message: format!("{step} failed: {error}"),
        error,
        can_retry: true,
    })
}

fn lost(error: &(dyn std::error::Error + 'static)) -> End {
    let error = Chain(error).to_string();
    End::Failed(Failed {
        step: Step::Finish,
        message: format!("The guest cannot be run: {error}"),
        error,
        can_retry: false,
    })
}

fn lent(heard: Heard<ArrivingRequest>) -> (ArrivingRequest, Lent) {
    let value = match &heard.message {
        ArrivingRequest::Prebuild { lent }
        | ArrivingRequest::Restore { lent, .. }
        | ArrivingRequest::Adopt { lent } => lent.clone(),
        ArrivingRequest::Arrive(_) | ArrivingRequest::Commit {} => Value::Null,
    };
    let fds = heard.fds;
    (heard.message, Lent { value, fds })
}

fn next(
    line: &Line<ArrivingRequest>,
    fits: impl Fn(&ArrivingRequest) -> bool,
) -> Result<(ArrivingRequest, Lent), End> {
    match line.next(None, fits) {
        Next::Request(heard) => Ok(lent(heard)),
        Next::Undo | Next::Gone | Next::CancelAsked => Err(End::Gone),
    }
}

/// The order to restore the guest.
struct Restore {
    lent: Lent,
    /// It is committed at once.
    commits: bool,
}

impl Restore {
    fn wait(line: &Line<ArrivingRequest>) -> Result<Self, End> {
        let restores = |order: &ArrivingRequest| matches!(order, ArrivingRequest::Restore { .. });
        let (order, lent) = next(line, restores)?;
        let commits = matches!(order, ArrivingRequest::Restore { commit: true, .. });
        Ok(Self { lent, commits })
    }
}

/// Takes the guest, step by step.
fn take<V: ArrivingVmm, S: BoxStore + Clone>(
    line: &Line<ArrivingRequest>,
    vmm: &mut V,
    arrive: &Arrive,
    mut fds: Vec<(String, OwnedFd)>,
    open: impl FnOnce(BoxName, Info, OwnedFd) -> Result<S, BoxError>,
) -> Result<(), End> {
    let at = fds.iter().position(|(name, _)| name == BOX_FD);
    let missing = || {
        failed(
            Step::Open,
            &*PartyError::from("The coordinator passed no box"),
        )
    };
    let (_, fd) = fds.swap_remove(at.ok_or_else(missing)?);
    let store = open(arrive.box_name.clone(), arrive.module.into(), fd);
    let store = store.map_err(|error| failed(Step::Open, &error))?;
    vmm.get_ready(arrive)
        .map_err(|error| failed(Step::Preflight, &*error))?;
    let arrival = match arrive.from_vmm || arrive.standby {
        true => from_vmm(line, vmm, arrive, store)?,
        false => from_box(line, vmm, arrive, store)?,
    };
    let (mut arrival, Restore { lent, commits }) = arrival;
    arrival.mark(crate::timeline::phase::RESTORE);
    let restored = match arrive.fail_at {
        Some(Step::Restore) => Err(UpdateError::Injected(Step::Restore).into()),
        _ => vmm.restore(&mut arrival, lent),
    };
    let complete = match restored {
        Ok(()) => arrival.check_taken(),
        Err(source) => Err(UpdateError::Guest {
            what: "The VM cannot be rebuilt",
            source,
        }),
    };
    if let Err(error) = complete {
        vmm.abandon();
        return Err(arrival.abort(error).into());
    }
    if !commits {
        line.say(&ArrivingReply::Restored {});
        if let Err(end) = next(line, |order| *order == ArrivingRequest::Commit {}) {
            vmm.abandon();
            // Dropping the arrival leaves the box as it was.
            return Err(end);
        }
    }
    arrival.mark("commit");
    let mut resumed = arrival.commit().map_err(|failed| {
        vmm.abandon();
        End::from(failed)
    })?;
    let entered = vmm.run().map_err(|error| lost(&*error))?;
    resumed.running_at(entered);
    line.say(&ArrivingReply::Running {});
    let report = vmm.report(resumed.finish());
    line.say(&ArrivingReply::Report { report });
    Ok(())
}

/// A guest that another VMM has: build first, then wait for its state.
fn from_vmm<V: ArrivingVmm, S: BoxStore + Clone>(
    line: &Line<ArrivingRequest>,
    vmm: &mut V,
    arrive: &Arrive,
    store: S,
) -> Result<(Arrival<S>, Restore), End> {
    line.say(&ArrivingReply::Ready { position: None });
    let (_, lent) = next(line, |order| {
        matches!(order, ArrivingRequest::Prebuild { .. })
    })?;
    let mut arriving = match arrive.standby {
        true => Arriving::open_away(store, &arrive.box_name)?,
        false => Arriving::open(store, &arrive.box_name)?,
    };
    if let Err(error) = vmm.prebuild(&mut arriving, lent) {
        vmm.abandon();
        return Err(failed(Step::Prebuild, &*error));
    }
    line.say(&ArrivingReply::Prebuilt {});
    let arrived =
        Restore::wait(line).and_then(|restore| Ok((arriving.arrive(plan(vmm, arrive))?, restore)));
    arrived.inspect_err(|_| vmm.abandon())
}

/// A guest that waits in its box: its state has its place in the order.
fn from_box<V: ArrivingVmm, S: BoxStore + Clone>(
    line: &Line<ArrivingRequest>,
    vmm: &mut V,
    arrive: &Arrive,
    store: S,
) -> Result<(Arrival<S>, Restore), End> {
    let arrival = Arrival::open(store, plan(vmm, arrive))?;
    vmm.reserve(&arrival.frame());
    let position = vmm.position(&arrival.frame());
    line.say(&ArrivingReply::Ready { position });
    let restore = Restore::wait(line)?;
    Ok((arrival, restore))
}

fn plan<'a, V: ArrivingVmm>(vmm: &'a V, arrive: &Arrive) -> ResumePlan<'a> {
    ResumePlan {
        userspace_boottime_ns: arrive.userspace_boottime_ns,
        fail_at: arrive.fail_at,
        ..ResumePlan::new(arrive.box_name.clone(), vmm.known())
    }
}
