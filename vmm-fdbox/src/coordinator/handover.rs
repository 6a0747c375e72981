//! Moving a guest to another VMM in the same kernel.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::arriving::{ArrivingError, RemoteArriving};
use super::boxes::Boxes;
use super::child::{Child, ChildError};
use super::leaving::{RemoteLeaving, TakenBack};
use crate::kind::Kind;
use crate::member::{Arrive, Failed, Lent};
use crate::update::{ExitStatus, Member, Objection, Step, Stopped};

/// How long a VMM that has taken the guest may take to say so. Nobody else can have the guest, so
/// giving up earlier would gain nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the new VMM.
pub type Start = Box<dyn FnMut() -> Result<(Child, UnixStream), ChildError> + Send>;

/// A member of a [`Fleet`](crate::update::Fleet) in a host that stays
/// ([`SameHost`](crate::update::SameHost)): the guest moves from its old VMM to a new one, which is
/// started for it.
///
/// If anything fails before the new VMM is told to take the guest, it is killed and the guest
/// continues in the old one. After that, the state in the box decides who has the guest. The old
/// VMM tries to take it back. If it succeeds, the new VMM is killed. If not, the new VMM has the
/// guest, and the result depends on whether that VMM is alive.
pub struct Handover<B> {
    leaving: RemoteLeaving<B>,
    start: Start,
    limit: Duration,
    fail_at: Option<Step>,
    arriving: Option<RemoteArriving>,
    saved: Lent,
    report: Option<Value>,
}

impl<B> fmt::Debug for Handover<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Handover");
        fields
            .field("leaving", &self.leaving)
            .finish_non_exhaustive()
    }
}

impl<B: Boxes> Handover<B> {
    /// Moves the guest of `leaving`, which joined for a
    /// [`Successor`](crate::update::Destination::Successor), to the VMM started by `start`. Each
    /// answer of the new VMM may take `limit`.
    pub fn new(leaving: RemoteLeaving<B>, start: Start, limit: Duration) -> Self {
        Self {
            leaving,
            start,
            limit,
            fail_at: None,
            arriving: None,
            saved: Lent::default(),
            report: None,
        }
    }

    /// Makes the new VMM fail at a step, for tests.
    #[must_use]
    pub fn failing_at(mut self, step: Option<Step>) -> Self {
        self.fail_at = step;
        self
    }

    /// Starts the new VMM, which gets ready for the guest.
    fn begin(&mut self) -> Result<(), String> {
        let passed = self.leaving.make_box();
        let passed = passed.map_err(|error| error.to_string())?;
        let join = &self.leaving.join;
        let arrive = Arrive {
            box_name: join.box_name.clone(),
            from_vmm: true,
            standby: false,
            module: join.module,
            userspace_boottime_ns: None,
            paused: false,
            fail_at: self.fail_at,
        };
        let (child, socket) = (self.start)().map_err(|error| crate::Chain(&error).to_string())?;
        let arriving = self.arriving.insert(RemoteArriving::new(child, socket));
        let ready = arriving.arrive(arrive, passed, self.limit);
        ready.map(drop).map_err(|error| error.to_string())
    }

    fn arriving<T>(
        &mut self,
        act: impl FnOnce(&mut RemoteArriving) -> Result<T, ArrivingError>,
    ) -> Result<T, String> {
        let arriving = self
            .arriving
            .as_mut()
            .ok_or("The new VMM was not started")?;
        act(arriving).map_err(|error| error.to_string())
    }

    /// Kills the new VMM, which does not have the guest, and continues the guest in the old one.
    fn undo(&mut self, step: Step, why: String) -> Stopped {
        if let Some(mut arriving) = self.arriving.take() {
            arriving.child().kill();
        }
        let end = self.leaving.undo();
        Stopped {
            message: match end.status {
                ExitStatus::GuestLost | ExitStatus::WaitsInBox => {
                    format!("{why}; {}", end.message)
                }
                _ => format!("Rolled back, the guest continues: {step} failed: {why}"),
            },
            step: Some(step),
            error: Some(why),
            cancelled: false,
            ..end
        }
    }

    /// Decides who has the guest if the new VMM was told to take it and did not report that it has.
    fn settle(&mut self, late: ArrivingError) -> Result<(), Stopped> {
        let mut why = late.to_string();
        let old = match self.leaving.take_back() {
            // Nobody else can have the guest, and the new VMM must stop using its devices.
            Ok(TakenBack::Yes) => return Err(self.undo(Step::Jump, why)),
            Ok(TakenBack::BoxGone(message)) => return self.settle_without_box(late, &message),
            Err(stopped) => stopped,
        };
        if let ArrivingError::Channel { .. } = late {
            match self.wait_until_it_runs() {
                Ok(()) => return Ok(()),
                Err(error) => why = error.to_string(),
            }
        }
        let Some(mut arriving) = self.arriving.take() else {
            return Err(old);
        };
        let ended = arriving.child().kill();
        let (status, message) = match old.status {
            // Whatever was true while the new VMM was alive no longer counts.
            ExitStatus::WaitsInBox if self.leaving.waits_in_box() => (
                ExitStatus::WaitsInBox,
                format!("{why}; {ended}; the old VMM: {}", old.message),
            ),
            ExitStatus::WaitsInBox | ExitStatus::GuestLost => (
                ExitStatus::GuestLost,
                format!("Guest lost: the new VMM had it: {why}; {ended}"),
            ),
            // The old VMM could not be asked; it takes the guest back when it responds again.
            status => (
                status,
                format!("{why}; {ended}; the old VMM: {}", old.message),
            ),
        };
        Err(Stopped {
            status,
            step: Some(Step::Jump),
            error: Some(why),
            ..Stopped::untouched(message)
        })
    }

    /// The same without the box, which is gone with its keeper: the old VMM has the guest only if
    /// the new one says that it does not.
    fn settle_without_box(&mut self, late: ArrivingError, gone: &str) -> Result<(), Stopped> {
        let late = match late {
            ArrivingError::Channel { .. } => match self.wait_until_it_runs() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            late => late,
        };
        if let ArrivingError::Failed(Failed {
            can_retry: true, ..
        }) = late
        {
            return Err(self.undo(Step::Jump, late.to_string()));
        }
        self.arriving = None;
        Err(Stopped {
            status: ExitStatus::GuestLost,
            step: Some(Step::Jump),
            error: Some(late.to_string()),
            ..Stopped::untouched(format!(
                "Guest lost: {gone}, and whether the new VMM had the guest is not known: {late}"
            ))
        })
    }

    fn wait_until_it_runs(&mut self) -> Result<(), ArrivingError> {
        let limit = PATIENCE.max(self.limit);
        match &mut self.arriving {
            Some(arriving) => arriving.wait_until_it_runs(limit),
            None => Ok(()),
        }
    }

    /// Moves over what the old VMM still has; the guest runs in any case.
    fn finish(&mut self) {
        let limit = self.limit;
        let report = self.arriving(|arriving| arriving.report(limit));
        self.report = report.ok();
        // An old VMM that lost track ends by itself, because the state is gone from the box.
        if let Ok(lent) = self.leaving.let_go() {
            let _ = self.arriving(|arriving| arriving.adopt(&lent, limit));
        }
        let name = self.leaving.join.box_name.clone();
        // Only duplicates are left in the box; the next update can reuse the name once the box is
        // empty.
        if self.fail_at != Some(Step::Finish) {
            let _ = self.leaving.boxes.delete(&name);
        }
        if let Some(arriving) = self.arriving.take() {
            arriving.let_go();
        }
    }
}

impl<B: Boxes> Member for Handover<B> {
    fn name(&self) -> &str {
        self.leaving.name()
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        self.leaving.kinds()
    }

    fn preflight(&mut self) -> Result<(), Stopped> {
        self.leaving.preflight()
    }

    fn prepare(&mut self) -> Result<(), Stopped> {
        if let Err(why) = self.begin() {
            return Err(self.undo(Step::LoadKernel, why));
        }
        let filled = self.leaving.fill();
        let lent = filled.inspect_err(|_| self.arriving = None)?;
        let limit = self.limit;
        let built = self.arriving(|arriving| arriving.prebuild(&lent, limit));
        built.map_err(|why| self.undo(Step::Prebuild, why))
    }

    fn pause(&mut self) -> Result<(), Stopped> {
        let saved = self.leaving.stop();
        self.saved = saved.inspect_err(|_| self.arriving = None)?;
        Ok(())
    }

    fn objection(&mut self) -> Option<Objection> {
        self.leaving.objection()
    }

    fn look_again(&mut self) -> Option<Stopped> {
        self.leaving.look_again()
    }

    fn roll_back(&mut self) -> Stopped {
        // Before the guest continues: the new VMM may have its devices.
        self.arriving = None;
        self.leaving.roll_back()
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        let saved = std::mem::take(&mut self.saved);
        let Some(arriving) = &mut self.arriving else {
            return Err(Stopped::untouched("The new VMM was not started"));
        };
        // One order: the guest waits, and `settle` finds out what a round trip in between would tell.
        let taken = arriving.take_over(&saved, self.limit);
        taken.or_else(|late| self.settle(late))?;
        self.finish();
        Ok(())
    }

    fn report(&mut self) -> Option<Value> {
        self.report.take()
    }
}
