//! The update: from one host into the next, with the guest either continuing
//! there or continuing here.
//!
//! ```text
//! Session ─preflight─▶ Ready ─prepare─▶ Prepared ─pause─▶ Paused ─jump─▶ (kexec)
//!   │                   │                 │                 │              │
//!   │ nothing changed   │  guest runs     │  guest runs     │ guest waits  │
//!   ▼                   ▼                 ▼                 ▼              ▼
//! NothingChanged     NothingChanged    RolledBack       RolledBack     Arrival
//!                    or RolledBack                                        │ restore
//!                                                                         ▼
//!                                                    (guest runs)      Resumed ─finish
//! ```
//!
//! - **preflight** asks guest, host and module for anything that could fail later.
//! - **prepare** loads the kernel, creates the box, puts and seals. This is the slow part, and the
//!   guest runs during it.
//! - **pause** stops the vCPUs, which starts the blackout, and writes the state.
//! - **jump** leaves.
//! - **[`Arrival`]** is the other side: it unseals, reads and checks the state and returns the
//!   descriptors, which the box keeps. Any failure before the commit seals the box again, for
//!   another try.
//!
//! Every failure before the jump goes through one function, which undoes exactly what was done:
//! unseal, take everything back, continue the guest, delete the box, unload the kernel. Each state
//! is a type that the next one consumes, so steps cannot be left out or repeated.
//!
//! A [`Fleet`] does the same for many guests at once, with one jump.
//!
//! A host that stays in its kernel and starts the new VMM itself does not seal: instead, the new
//! VMM gets ready, with an [`Arriving`] guest, and the blackout consists only of writing and
//! reading the state.
//!
//! The module uses guests and hosts only through [`Guest`] and [`Host`], and boxes through
//! [`BoxStore`](crate::BoxStore).

mod arrival;
mod arriving;
mod attempt;
mod contents;
mod fleet;

mod limits;
mod others;
mod outcome;
mod outgoing;
mod parties;
mod preflight;
mod resumed;
mod rollback;
mod shared;
mod step;
#[cfg(test)]
mod tests;
mod watch;

pub use arrival::{Arrival, ResumeFailed, ResumePlan};
pub use arriving::Arriving;
pub use fleet::{
    Fleet, FleetEvent, FleetOutcome, FleetPlan, Member, MemberOutcome, NotReady, Objection, Stopped,
};
pub use limits::Limits;
pub use others::{Destination, LeftByOthers};
pub use outcome::{Outcome, UpdateError};
pub use outgoing::{Paused, Prepared, Ready, Session};
pub use parties::{Guest, Host, KexecHost, NamedFd, NextKernel, PartyError, SameHost};
pub(crate) use preflight::box_in_the_way;
pub use resumed::{Finished, Resumed};
pub use step::{ExitStatus, Step, UnknownStep};
pub use watch::{CancelFlag, Event, Observer};

use crate::clock::Clock;
use crate::name::{BoxName, FdName};

/// The name of the state memfd in its box. No other descriptor may have it.
pub const STATE_FD: &str = "vm-state";

/// The default space for a VM's state, in bytes.
pub const DEFAULT_STATE_BYTES: usize = 1 << 20;

pub(crate) fn state_fd_name() -> FdName {
    FdName::from_static(STATE_FD)
}

/// The plan of an update.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The box to create; the name must be free.
    pub box_name: BoxName,
    /// The clock of the timeline.
    pub clock: Clock,
    /// Name and version of the program, written into the state.
    pub producer: String,
    /// Space for the VM's state, in bytes. Default: [`DEFAULT_STATE_BYTES`].
    pub state_bytes: usize,
    /// How long each step may take. Default: [`Limits::default`].
    pub limits: Limits,
    /// Cancels the update when set. Default: never set.
    pub cancel: CancelFlag,
    /// The step that is made to fail instead of being carried out, for tests.
    /// Default: none.
    pub fail_at: Option<Step>,
}

impl Plan {
    /// A plan with the defaults.
    pub fn new(box_name: BoxName, clock: Clock, producer: impl Into<String>) -> Self {
        Self {
            box_name,
            clock,
            producer: producer.into(),
            state_bytes: DEFAULT_STATE_BYTES,
            limits: Limits::default(),
            cancel: CancelFlag::new(),
            fail_at: None,
        }
    }
}
