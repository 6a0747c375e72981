//! A host that is not left without the guests in their boxes.

use std::collections::BTreeSet;

use super::boxes::Boxes;
use crate::deadline::Deadline;
use crate::finding::Finding;
use crate::kind::Kind;
use crate::update::{Host, PartyError};

/// A [`Host`] for a [`Fleet`](crate::update::Fleet) whose guests are in `boxes`. It is not left if
/// they are no longer kept, and every sealed box goes along.
#[derive(Debug)]
pub struct WithBoxes<'a, H, B> {
    /// The host.
    pub host: H,
    /// The boxes.
    pub boxes: &'a B,
}

impl<H: Host, B: Boxes> Host for WithBoxes<'_, H, B> {
    fn preflight(&mut self) -> Vec<Finding> {
        self.host.preflight()
    }

    fn check_kinds(&mut self, kinds: &BTreeSet<Kind>) -> Vec<Finding> {
        self.host.check_kinds(kinds)
    }

    fn leaves_kernel(&self) -> bool {
        self.host.leaves_kernel()
    }

    /// Guests of the last kernel that are waiting to be resumed are carried along, too.
    fn load(&mut self) -> Result<(), PartyError> {
        if self.leaves_kernel() {
            self.boxes.make_ready()?;
        }
        self.host.load()
    }

    fn unload(&mut self) -> Result<(), PartyError> {
        self.host.unload()
    }

    fn jump(&mut self, deadline: Deadline) -> Result<(), PartyError> {
        self.boxes.check()?;
        self.host.jump(deadline)
    }
}
