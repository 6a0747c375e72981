//! Moving a guest to a VMM in the lifeboat, in the host.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::boxes::Boxes;
use super::leaving::RemoteLeaving;
use super::lent::{CALMLY, QUICKLY, wait_until};
use crate::deadline::Deadline;
use crate::error::BoxError;
use crate::kind::Kind;
use crate::lending::{Holder, LendAct, Lending};
use crate::update::{ExitStatus, Member, Objection, Step, Stopped};

/// How long the boat may take. Another kernel may be busy with other guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoardingLimits {
    /// To have a VMM ready for the guest, which runs meanwhile.
    pub ready: Duration,
    /// To take the guest, which stands still meanwhile.
    pub take: Duration,
}

/// Why no guest goes there.
const LOST: &str = "the lifeboat is lost: see its console and the kernel's log";

/// Held while a guest moves, so that guests move one by one. Clones are the same lock.
#[derive(Debug, Clone, Default)]
pub struct MoveLock(Arc<Mutex<()>>);

/// Called when a guest is in the boat, with the time that it took from the order to stop it.
pub type OnAboard = Box<dyn FnMut(&str, Duration) + Send>;

/// Called when it is a guest's turn, and it still runs. An error leaves the guest here.
pub type OnTurn = Box<dyn FnMut() -> Result<(), String> + Send>;

/// A member of a [`Fleet`](crate::update::Fleet) in a [`LifeboatHost`](crate::boat::LifeboatHost): when the guest
/// is paused, a VMM in the boat takes it, and the old VMM ends. Whoever takes the box first has the guest.
pub struct Boarding<B> {
    leaving: RemoteLeaving<B>,
    limits: BoardingLimits,
    move_lock: MoveLock,
    on_turn: OnTurn,
    on_aboard: OnAboard,
    /// Whether the boat has the guest.
    aboard: bool,
}

impl<B> fmt::Debug for Boarding<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Boarding");
        fields
            .field("leaving", &self.leaving)
            .field("aboard", &self.aboard)
            .finish_non_exhaustive()
    }
}

impl<B: Boxes> Boarding<B> {
    /// Moves the guest of `leaving`, which joined for the
    /// [`Lifeboat`](crate::update::Destination::Lifeboat).
    pub fn new(leaving: RemoteLeaving<B>, limits: BoardingLimits, move_lock: MoveLock) -> Self {
        Self {
            leaving,
            limits,
            move_lock,
            on_turn: Box::new(|| Ok(())),
            on_aboard: Box::new(|_, _| {}),
            aboard: false,
        }
    }

    /// Sets what is done before the guest moves, such as lending the boat
    /// [a CPU](crate::boat::CpuLender::lend_for_next).
    #[must_use]
    pub fn preceded_by(mut self, on_turn: OnTurn) -> Self {
        self.on_turn = on_turn;
        self
    }

    /// Sets who is told that the guest is in the boat.
    #[must_use]
    pub fn telling(mut self, on_aboard: OnAboard) -> Self {
        self.on_aboard = on_aboard;
        self
    }

    /// Shows the box to the boat, and waits until a VMM there is ready.
    fn show(&mut self) -> Result<(), String> {
        let (boxes, name) = (&self.leaving.boxes, &self.leaving.join.box_name);
        let message = |error: BoxError| error.to_string();
        boxes.lend(name, LendAct::Show).map_err(message)?;
        let deadline = Deadline::within(self.limits.ready);
        let ready = wait_until(boxes, name, CALMLY, deadline, |lending| {
            lending.ready || lending.lost
        });
        match ready.map_err(message)? {
            Some(lending) if lending.lost => Err(LOST.into()),
            Some(_) => Ok(()),
            None => {
                let limit = self.limits.ready;
                Err(format!(
                    "no VMM in the lifeboat was ready within {limit:?}: see its console"
                ))
            }
        }
    }

    fn look(&self) -> Result<Lending, BoxError> {
        let (boxes, name) = (&self.leaving.boxes, &self.leaving.join.box_name);
        boxes.lend(name, LendAct::Look)
    }

    /// A boat may be lost after the guest's VMM was ready in it: the guest is not stopped for such a boat.
    fn check_boat(&self) -> Result<(), String> {
        match self.look() {
            Ok(lending) if !lending.lost => Ok(()),
            Ok(_) => Err(LOST.into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Offers the paused guest to the boat. `Ok`: the boat has it.
    fn offer(&mut self) -> Result<(), String> {
        let (boxes, name) = (&self.leaving.boxes, &self.leaving.join.box_name);
        let message = |error: BoxError| error.to_string();
        boxes.lend(name, LendAct::Offer).map_err(message)?;
        let deadline = Deadline::within(self.limits.take);
        let has_it = |lending: &Lending| lending.holder == Holder::Boat;
        let taken = wait_until(boxes, name, QUICKLY, deadline, |lending| {
            has_it(lending) || lending.lost
        });
        if taken
            .as_ref()
            .is_ok_and(|taken| taken.is_some_and(|lending| has_it(&lending)))
        {
            return Ok(());
        }
        // This ends the offer, unless the boat was faster.
        let recalled = boxes.lend(name, LendAct::Show);
        match self.look() {
            Ok(lending) if has_it(&lending) => Ok(()),
            _ => Err(match taken.and_then(|taken| recalled.map(|_| taken)) {
                Err(error) => error.to_string(),
                Ok(Some(_)) => LOST.into(),
                Ok(None) => format!("the lifeboat did not take it within {:?}", self.limits.take),
            }),
        }
    }

    /// The guest continues in its old VMM.
    fn undo(&mut self, step: Step, why: String) -> Stopped {
        let end = self.leaving.undo();
        Stopped {
            message: format!("{why}; {}", end.message),
            step: Some(step),
            error: Some(why),
            cancelled: false,
            ..end
        }
    }
}

impl<B: Boxes> Member for Boarding<B> {
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
        self.leaving.prepare()?;
        self.show().map_err(|why| self.undo(Step::Prebuild, why))
    }

    /// Each guest comes to rest when it is its turn.
    fn quiesce(&mut self) -> Result<(), Stopped> {
        Ok(())
    }

    fn pause(&mut self) -> Result<(), Stopped> {
        let move_lock = self.move_lock.clone();
        // A panic in another thread is no reason to leave this guest behind.
        let _turn = move_lock.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_boat()
            .and_then(|()| (self.on_turn)())
            .map_err(|why| self.undo(Step::Pause, why))?;
        let began = Instant::now();
        self.leaving.stop()?;
        self.offer().map_err(|why| self.undo(Step::Jump, why))?;
        self.aboard = true;
        (self.on_aboard)(self.leaving.name(), began.elapsed());
        // Whatever it answers, the guest is not there any more.
        let _ = self.leaving.let_go();
        self.leaving.wait_for_end();
        Ok(())
    }

    fn objection(&mut self) -> Option<Objection> {
        None
    }

    fn look_again(&mut self) -> Option<Stopped> {
        self.leaving.look_again()
    }

    fn roll_back(&mut self) -> Stopped {
        match self.aboard {
            false => self.leaving.undo(),
            true if self.look().is_ok_and(|lending| lending.lost) => Stopped {
                status: ExitStatus::GuestLost,
                ..Stopped::untouched("The lifeboat is lost, and the guest with it")
            },
            true => Stopped {
                status: ExitStatus::WaitsInBox,
                ..Stopped::untouched(
                    "The guest runs in the lifeboat: resume it here, which also stops the boat",
                )
            },
        }
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        Ok(())
    }
}
