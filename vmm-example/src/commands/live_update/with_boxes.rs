//! A kexec that leaves no sealed box behind.

use std::collections::BTreeSet;

use vmm_fdbox::coordinator::Boxes;
use vmm_fdbox::update::{Host, KexecHost, PartyError};
use vmm_fdbox::{Deadline, Finding, Kind};

/// See the module's documentation.
pub(super) struct WithBoxes<'a, B> {
    pub(super) host: KexecHost,
    pub(super) boxes: &'a B,
}

impl<B: Boxes> Host for WithBoxes<'_, B> {
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
        self.boxes.make_ready()?;
        self.host.load()
    }

    fn unload(&mut self) -> Result<(), PartyError> {
        self.host.unload()
    }

    fn jump(&mut self, deadline: Deadline) -> Result<(), PartyError> {
        self.host.jump(deadline)
    }
}
