//! The other half of the [member protocol](crate::member): the process that drives an update.
//!
//! It has the privileges that VMMs do not need: it creates their boxes, passes descriptors of them,
//! loads the next kernel, jumps, and deletes what is left. Three things are built from its parts:
//!
//! - an update of one or many guests into the next kernel: [`Fleet`](crate::update::Fleet) with a
//!   [`RemoteLeaving`] for each guest;
//! - another VMM for a guest, in this kernel: the same with a [`Handover`] for each;
//! - guests that wait in their boxes, or in the lifeboat: [`resume`];
//! - a guest that goes to the lifeboat: a fleet of [`Boarding`] members; and in the lifeboat: [`carry`].
//!
//! Nothing here waits without a limit. A VMM that hangs is left alone or, if this process started
//! it, killed. A guest is reported as lost only when it is certain that nobody who could have it
//! does.

mod arriving;
mod boarding;
mod boxes;
mod carrying;
mod child;
mod connection;
mod handover;
mod homecoming;
mod leaving;
mod lent;
mod process;
mod resume;
#[cfg(test)]
mod tests;
mod turns;
mod with_boxes;

pub use crate::owner::Owner;
pub use arriving::{ArrivingError, RemoteArriving};
pub use boarding::{Boarding, BoardingLimits, MoveLock, OnAboard, OnTurn};
pub use boxes::{Boxes, WholeGuest};
pub use carrying::{Carrier, CarryError, CarryEvent, carry};
pub use child::{Child, ChildError, Ended};
pub use handover::{Handover, Start};
pub use leaving::{RemoteLeaving, TakenBack};
pub use resume::{ResumeEvent, ResumeLimits, Resumption, ToResume, resume};
pub use with_boxes::WithBoxes;

pub use crate::lease::Lease;
