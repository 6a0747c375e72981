//! A host that somebody else leaves.

use super::parties::{Host, PartyError};
use crate::deadline::Deadline;

/// Who is to have the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Destination {
    /// Whoever resumes it in the next kernel.
    NextKernel,
    /// Whoever resumes it later in this one. The box is sealed.
    ThisKernel,
    /// A process that is there already. The box is not sealed, for it would have to be unsealed in
    /// the blackout.
    Successor,
}

/// A [`Host`] for an update whose end is somebody else's: a coordinator that jumps for many guests, or
/// the VMM that the guest goes to. It loads nothing. KHO is asked for if the guest goes to the next kernel.
///
/// From the moment the guest is [`Paused`](super::Paused) it may be taken, or the kernel may go away. Then
///
/// - whoever leaves says that it is done (in this kernel only): [`Paused::jump`](super::Paused::jump);
/// - or that it is not: [`Paused::cancel`](super::Paused::cancel), or drop it. The guest continues here if
///   nobody has taken its state out of the box, and if this kernel is not ending.
///
/// Do neither just because time has passed: whoever is about to jump must have died or given up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftByOthers(pub Destination);

impl Host for LeftByOthers {
    fn leaves_kernel(&self) -> bool {
        self.0 == Destination::NextKernel
    }

    fn seals(&self) -> bool {
        self.0 != Destination::Successor
    }

    fn is_left_by_others(&self) -> bool {
        true
    }

    fn jump(&mut self, _: Deadline) -> Result<(), PartyError> {
        match self.0 {
            Destination::NextKernel => Err("somebody else leaves this kernel, and has not".into()),
            Destination::ThisKernel | Destination::Successor => Ok(()),
        }
    }
}
