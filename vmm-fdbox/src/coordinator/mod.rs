//! The other half of the [member protocol](crate::member): the process that drives an update.
//!
//! It has the privilege that VMMs do not need: it makes their boxes, hands out descriptors of them, loads the
//! next kernel, jumps, and deletes what is left. Three things are built from its parts:
//!
//! - an update of many guests, or one, into the next kernel: [`Fleet`](crate::update::Fleet) with a
//!   [`RemoteLeaving`] for each guest;
//! - another VMM for a guest, in this kernel: the same with a [`Handover`] for each;
//! - guests that wait in their boxes: [`resume`].
//!
//! Nothing here waits for ever. A VMM that hangs is left alone or, if this process started it, killed; and a guest is
//! reported as lost only after whoever could have had it was made sure of.

mod arriving;
mod boxes;
mod child;
mod connection;
mod handover;
mod leaving;
mod process;
mod resume;
#[cfg(test)]
mod tests;
mod turns;

pub use arriving::{ArrivingError, RemoteArriving};
pub use boxes::{Boxes, Owner};
pub use child::{Child, ChildError, Ended};
pub use handover::{Handover, Start};
pub use leaving::RemoteLeaving;
pub use resume::{ResumeEvent, ResumeLimits, Resumption, ToResume, resume};

pub use crate::lease::Lease;
