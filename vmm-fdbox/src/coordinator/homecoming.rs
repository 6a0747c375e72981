//! Guests that come home from the lifeboat, one by one.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use rustix::io::Errno;

use super::arriving::RemoteArriving;
use super::boxes::Boxes;
use super::lent::{QUICKLY, Silence, wait_until};
use super::resume::{One, ResumeEvent, Resumption};
use crate::deadline::Deadline;
use crate::error::BoxError;
use crate::lending::{Holder, LendAct, Lending};
use crate::member::{Arrive, Lent};
use crate::update::ExitStatus;

/// Why a guest does not come home from the lifeboat.
enum Kept {
    /// It is still there.
    InBoat(String),
    /// The boat is lost, and had it.
    Lost,
}

impl From<BoxError> for Kept {
    fn from(error: BoxError) -> Self {
        Self::InBoat(error.to_string())
    }
}

/// What becomes of the guest of a lost boat.
const LOST: &str = "Guest lost: the lifeboat that had it is lost";

impl<B: Boxes> One<'_, B> {
    /// Takes a guest home that runs in the lifeboat, once its VMM here is ready for it.
    pub(super) fn take_home(
        &self,
        mut vmm: RemoteArriving,
        arrive: Arrive,
        passed: OwnedFd,
    ) -> Resumption {
        let pid = vmm.child().id();
        let ready = vmm
            .arrive(arrive, passed, self.limits.ready)
            .and_then(|_| vmm.prebuild(&Lent::default(), self.limits.ready));
        if let Err(error) = ready {
            return self.give_up(vmm, &error);
        }
        (self.on_event)(&self.name, ResumeEvent::Ready { pid });
        self.turn.wait(None);
        let mut silence = self
            .move_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Err(kept) = self.recall(&mut silence) {
            vmm.child().kill();
            let (status, why) = match kept {
                Kept::InBoat(why) => (ExitStatus::NothingChanged, why),
                Kept::Lost => (ExitStatus::GuestLost, LOST.to_owned()),
            };
            return Resumption {
                status,
                can_retry: status == ExitStatus::NothingChanged,
                ..Resumption::failed(self.name.clone(), why)
            };
        }
        let taken = vmm.take_over(&Lent::default(), self.limits.restore);
        self.committed(vmm, taken)
    }

    /// Asks the boat for the guest, waits until it is given back, and ends the lease.
    fn recall(&self, silence: &mut Silence) -> Result<(), Kept> {
        let recall = || self.boxes.lend(&self.name, LendAct::Recall);
        match recall() {
            Err(error) if error.errno() == Errno::BUSY => {}
            done => return Ok(done.map(drop)?),
        }
        let (limit, slow) = (self.limits.restore, self.limits.slow_boat);
        let here = |lending: &Lending| lending.holder != Holder::Boat;
        let over = |lending: &Lending| here(lending) || silence.lasts(lending.lost, slow);
        let deadline = Deadline::within(limit);
        match wait_until(self.boxes, &self.name, QUICKLY, deadline, over)? {
            Some(lending) if here(&lending) => Ok(recall().map(drop)?),
            Some(_) => Err(Kept::Lost),
            None => Err(Kept::InBoat(format!(
                "the lifeboat did not give the guest back within {limit:?}: see its console; it still has it"
            ))),
        }
    }
}
