//! A guest in the lifeboat: taken from the host, and given back when the host asks for it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::Value;

use super::arriving::{ArrivingError, RemoteArriving};
use super::boxes::Boxes;
use super::child::{Child, ChildError};
use super::leaving::RemoteLeaving;
use super::lent::{CALMLY, QUICKLY, wait_until};
use crate::boxes::AnyBox;
use crate::deadline::Deadline;
use crate::error::{BoxError, Chain};
use crate::lending::{Holder, LendAct, Lending};
use crate::member::{Arrive, Join, Lent};
use crate::name::BoxName;
use crate::store::{OpenFdBox, SealedFdBox};
use crate::update::{Destination, Limits, Stopped, state_fd_name};

/// How long the VMM may take for each step.
const LIMIT: Duration = Duration::from_secs(60);

/// What happened to a guest.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CarryEvent {
    /// A VMM waits for it.
    Ready,
    /// It runs here. The VMM's report on its move.
    Aboard(Value),
    /// It is the host's again.
    GivenBack,
}

/// Why a guest is not carried any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarryError {
    /// An operation on its box failed.
    #[error(transparent)]
    Box(#[from] BoxError),
    /// Its VMM did not start.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// Its VMM did not take it.
    #[error("{0}")]
    Arriving(ArrivingError),
    /// Its VMM cannot be reached, or has ended.
    #[error("{0}")]
    Vmm(String),
    /// The host has taken the offer back.
    #[error("The host keeps the guest")]
    Kept,
}

impl From<ArrivingError> for CarryError {
    fn from(error: ArrivingError) -> Self {
        Self::Arriving(error)
    }
}

/// How a guest's VMM is started and reached.
pub trait Carrier {
    /// Starts a VMM for the guest.
    ///
    /// # Errors
    /// [`ChildError`].
    fn start(&self, name: &BoxName) -> Result<(Child, UnixStream), ChildError>;

    /// Connects to it so that it takes part in an update.
    ///
    /// # Errors
    /// Why it cannot be reached.
    fn join(&self, name: &BoxName) -> Result<UnixStream, String>;

    /// Creates the box of a guest that the host lends.
    ///
    /// # Errors
    /// As [`Control::borrow`](crate::Control::borrow).
    fn borrow(&self, name: &BoxName) -> Result<(), BoxError>;
}

/// Carries one guest: waits until the host shows its box, has a VMM wait for it, takes it, and gives it back when
/// the host asks for it. The box is gone then.
///
/// # Errors
/// [`CarryError`]. What the boat had is given back; without its VMM the guest is lost.
pub fn carry<B: Boxes + Clone, C: Carrier>(
    boxes: &B,
    carrier: &C,
    name: &BoxName,
    on_event: &mut dyn FnMut(CarryEvent),
) -> Result<(), CarryError> {
    borrow(carrier, name)?;
    let mut guest = Guest {
        boxes,
        carrier,
        name,
        on_event,
    };
    let carried = guest.carry();
    let given_back = guest.give_back();
    carried.and(given_back)
}

/// Waits until the host shows the box.
fn borrow<C: Carrier>(carrier: &C, name: &BoxName) -> Result<(), BoxError> {
    loop {
        match carrier.borrow(name) {
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::AGAIN) => {
                thread::sleep(CALMLY);
            }
            done => return done,
        }
    }
}

struct Guest<'a, B, C> {
    boxes: &'a B,
    carrier: &'a C,
    name: &'a BoxName,
    on_event: &'a mut dyn FnMut(CarryEvent),
}

impl<B, C> fmt::Debug for Guest<'_, B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guest").field(self.name).finish()
    }
}

impl<B: Boxes + Clone, C: Carrier> Guest<'_, B, C> {
    /// From a box that is borrowed to one that the host wants back, with the state written.
    fn carry(&mut self) -> Result<(), CarryError> {
        let state = self.state()?;
        let (child, socket) = self.carrier.start(self.name)?;
        let mut vmm = RemoteArriving::new(child, socket);
        let passed = self.boxes.descriptor(self.name)?;
        vmm.arrive(
            Arrive::standing_by(self.name.clone(), self.boxes.module()?),
            passed,
            LIMIT,
        )?;
        vmm.prebuild(&Lent::default(), LIMIT)?;
        self.boxes.lend(self.name, LendAct::Ready)?;
        (self.on_event)(CarryEvent::Ready);
        self.wait_for_offer(vmm.child())?;
        let taken = vmm.take_over(&Lent::default(), LIMIT);
        if let Err(error) = taken {
            let lending = self.boxes.lend(self.name, LendAct::Look)?;
            return Err(match lending.holder {
                Holder::Boat => error.into(),
                _ => CarryError::Kept,
            });
        }
        let report = vmm.report(LIMIT).unwrap_or_default();
        (self.on_event)(CarryEvent::Aboard(report));
        self.wait_until_wanted(vmm.child())?;
        self.stop(state, vmm)
    }

    /// The guest's state in the box: whatever becomes of it here, it is written there for the host.
    fn state(&self) -> Result<OwnedFd, BoxError> {
        let name = state_fd_name();
        match self.boxes.open_box(self.name)? {
            AnyBox::Sealed(sealed) => sealed.get_and_keep(&name),
            AnyBox::Open(open) => open.get_and_keep(&name),
        }
    }

    fn wait_for_offer(&self, vmm: &mut Child) -> Result<(), CarryError> {
        let ended = |lending: &Lending| lending.holder != Holder::Shown;
        match self.wait_with(vmm, QUICKLY, ended)?.holder {
            Holder::Offered => Ok(()),
            _ => Err(CarryError::Kept),
        }
    }

    /// Waits until the host asks for the guest.
    fn wait_until_wanted(&self, vmm: &mut Child) -> Result<(), CarryError> {
        let wanted = |lending: &Lending| lending.wanted || lending.holder != Holder::Boat;
        self.wait_with(vmm, CALMLY, wanted).map(drop)
    }

    /// Waits until the lease is as `until` wants it, as long as the VMM lives.
    fn wait_with(
        &self,
        vmm: &mut Child,
        interval: Duration,
        until: impl Fn(&Lending) -> bool,
    ) -> Result<Lending, CarryError> {
        loop {
            let soon = Deadline::within(4 * CALMLY);
            if let Some(lending) = wait_until(self.boxes, self.name, interval, soon, &until)? {
                return Ok(lending);
            }
            if let Some(ended) = vmm.wait(Deadline::within(Duration::ZERO)) {
                return Err(CarryError::Vmm(format!("The VMM has ended: {ended}")));
            }
        }
    }

    /// Has the VMM stop the guest and write its state, and gives the box back.
    fn stop(&mut self, state: OwnedFd, vmm: RemoteArriving) -> Result<(), CarryError> {
        let limits = Limits::default();
        let join = Join {
            box_name: self.name.clone(),
            to: Destination::Home,
            module: self.boxes.module()?,
            limits: limits.into(),
            position: None,
            fail_at: None,
        };
        let socket = self.carrier.join(self.name);
        let mut leaving =
            RemoteLeaving::new(self.name.to_string(), socket, self.boxes.clone(), join);
        let refused = |stopped: Stopped| CarryError::Vmm(stopped.message);
        leaving.fill_home(state).map_err(refused)?;
        leaving.stop().map_err(refused)?;
        if let AnyBox::Open(open) = self.boxes.open_box(self.name)? {
            open.seal()
                .map_err(|failed| CarryError::Vmm(failed.error.to_string()))?;
        }
        (self.on_event)(CarryEvent::GivenBack);
        // Its memory is revoked: whatever it answers, it cannot run the guest any more.
        let _ = leaving.let_go();
        let mut child = vmm.into_child();
        if child.wait(Deadline::within(LIMIT)).is_none() {
            child.kill();
        }
        Ok(())
    }

    /// Gives back what is still here, and deletes the box.
    fn give_back(&self) -> Result<(), CarryError> {
        if let AnyBox::Open(open) = self.boxes.open_box(self.name)?
            && !open.fds()?.is_empty()
        {
            open.seal()
                .map_err(|failed| CarryError::Vmm(Chain(&failed.error).to_string()))?;
        }
        Ok(self.boxes.delete(self.name)?)
    }
}
