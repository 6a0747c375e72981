//! A host that is left by another process.

use super::parties::{Host, PartyError};
use crate::deadline::Deadline;

/// Who is to have the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Destination {
    /// Whoever resumes it in the next kernel.
    NextKernel,
    /// Whoever resumes it later in this kernel. The box is sealed.
    ThisKernel,
    /// A process that already exists. The box is not sealed, because unsealing it would be part of
    /// the blackout.
    Successor,
    /// A VMM in the lifeboat, a kernel beside this one, from which the next kernel takes it. The box is sealed.
    Lifeboat,
    /// In a lifeboat: a VMM in the host. The box is the host's, and has the guest's memory already.
    Home,
}

/// A [`Host`] for an update that another process completes: a coordinator that jumps for many
/// guests, or the VMM that the guest moves to. It loads nothing. KHO is required if the guest goes
/// to the next kernel.
///
/// From the moment the guest is [`Paused`](super::Paused), it may be taken, or the kernel may end.
/// Then
///
/// - the other process reports success (in this kernel only): call
///   [`Paused::jump`](super::Paused::jump);
/// - or it reports failure: call [`Paused::cancel`](super::Paused::cancel), or drop the value. The
///   guest continues here if nobody has taken its state out of the box, and if this kernel is not
///   ending.
///
/// Do neither on a mere timeout: the process that is about to jump must have died or given up
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftByOthers(pub Destination);

impl Host for LeftByOthers {
    fn leaves_kernel(&self) -> bool {
        matches!(self.0, Destination::NextKernel | Destination::Lifeboat)
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
            _ => Ok(()),
        }
    }
}
