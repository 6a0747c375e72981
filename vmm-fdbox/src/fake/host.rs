//! A host that only records calls.

use std::collections::BTreeSet;

use crate::deadline::Deadline;
use crate::finding::Finding;
use crate::kind::Kind;
use crate::update::{Host, PartyError};

/// A call of a [`FakeHost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCall {
    /// [`Host::load`].
    Load,
    /// [`Host::unload`].
    Unload,
    /// [`Host::prebuild`].
    Prebuild,
    /// [`Host::jump`].
    Jump,
}

/// A host that records what it is asked to do.
#[derive(Debug, Default)]
pub struct FakeHost {
    /// The calls, in order, including those that failed.
    pub calls: Vec<HostCall>,
    /// The calls that fail.
    pub failing: Vec<HostCall>,
    /// What preflight finds.
    pub findings: Vec<Finding>,
    /// The kinds of files that would be lost in its jump.
    pub loses: BTreeSet<Kind>,
    /// Whether it hands boxes over itself, in this kernel, and does not seal them.
    pub hands_over: bool,
}

impl FakeHost {
    fn call(&mut self, call: HostCall) -> Result<(), PartyError> {
        self.calls.push(call);
        if self.failing.contains(&call) {
            return Err(format!("{call:?} was made to fail").into());
        }
        Ok(())
    }
}

impl Host for FakeHost {
    fn preflight(&mut self) -> Vec<Finding> {
        self.findings.clone()
    }

    fn check_kinds(&mut self, kinds: &BTreeSet<Kind>) -> Vec<Finding> {
        let lost = kinds.intersection(&self.loses);
        lost.map(|kind| {
            Finding::blocker(
                "The next kernel",
                format!("{kind} are lost"),
                "name another",
            )
        })
        .collect()
    }

    fn leaves_kernel(&self) -> bool {
        !self.hands_over
    }

    fn seals(&self) -> bool {
        !self.hands_over
    }

    fn prebuild(&mut self) -> Result<(), PartyError> {
        self.call(HostCall::Prebuild)
    }

    fn load(&mut self) -> Result<(), PartyError> {
        self.call(HostCall::Load)
    }

    fn unload(&mut self) -> Result<(), PartyError> {
        self.call(HostCall::Unload)
    }

    fn jump(&mut self, _: Deadline) -> Result<(), PartyError> {
        self.call(HostCall::Jump)
    }
}
