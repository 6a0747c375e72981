//! What a VMM with a guest does for a coordinator.

use super::Lent;
use super::wire::Join;
use crate::update::{CancelFlag, Event, Guest, Outcome, PartyError, Plan, Stopped};

/// When a VMM lends something to the one that takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leaving {
    /// Everything but the state is in the box; the guest runs. For what the new VMM needs to build
    /// itself.
    Prepared,
    /// The guest is paused. For what nobody may use until it runs again, such as its taps. Be
    /// quick.
    Saved,
    /// The new VMM has the guest. For everything else it is to have, such as connections of idle
    /// clients.
    HandedOver,
}

/// Receives events, with the time of each.
pub type OnEvent = Box<dyn FnMut(u64, &Event) + Send>;

/// A VMM with a guest, for [`serve_leaving`](super::serve_leaving).
pub trait LeavingVmm: Guest {
    /// Begins an update. Returns the plan's clock, producer, size of the state, and the flag with
    /// which somebody else can cancel it. Box, limits and failing step are set by the coordinator.
    ///
    /// # Errors
    /// Why not, for example because another update is in progress.
    fn join(&mut self, join: &Join) -> Result<Plan, PartyError>;

    /// Receives each event immediately, in the blackout too. Default: ignores them.
    fn observer(&mut self) -> OnEvent {
        Box::new(|_, _| {})
    }

    /// What the VMM that takes over in this kernel is to have. Only duplicates, because a rollback
    /// may follow. Default: nothing.
    ///
    /// # Errors
    /// The update is rolled back; the last time, the error is only reported.
    fn lend(&mut self, at: Leaving) -> Result<Lent, PartyError> {
        let _ = at;
        Ok(Lent::default())
    }

    /// The update has ended. It may be followed by another one, [`set_down`](Self::set_down) or
    /// nothing.
    fn ended(&mut self, outcome: &Outcome) {
        let _ = outcome;
    }

    /// The coordinator is about to leave this kernel without the guest: stop it and sync what it
    /// wrote. Default: the guest runs until the kernel ends.
    ///
    /// # Errors
    /// Why it continues.
    fn set_down(&mut self) -> Result<(), PartyError> {
        Err("this VMM cannot stop it for that".into())
    }

    /// The flag that is set if somebody else wants the guest to continue while it is down; the
    /// coordinator is told, and decides. Default: none.
    fn down_cancel(&self) -> Option<CancelFlag> {
        None
    }

    /// The coordinator has not left: continue the guest.
    ///
    /// # Errors
    /// The guest is lost.
    fn stand_up(&mut self) -> Result<(), PartyError> {
        Ok(())
    }
}

/// Who has the guest when the coordinator is done.
#[derive(Debug)]
#[must_use = "tells whether the guest still runs in this process"]
pub enum Left {
    /// This process.
    Here,
    /// Another VMM, or whoever resumes it: this process ends. The guest's resources must not be
    /// dropped the way a VM is shut down.
    HandedOver,
    /// Nobody.
    Lost(Stopped),
}
