//! What a VMM lends to the one that takes over its guest in the same kernel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde_json::Value;

/// What is passed along with the guest from its old VMM to its new one in the same kernel: sockets,
/// taps, devices. The protocol forwards it without looking into it.
#[derive(Debug, Default)]
pub struct Lent {
    /// Data for the new VMM.
    pub value: Value,
    /// Descriptors by name: at most [`MAX_FDS`](super::MAX_FDS), with unique names.
    pub fds: Vec<(String, OwnedFd)>,
}

impl Lent {
    /// Removes a descriptor and returns it.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.fds.iter().position(|(other, _)| other == name)?;
        Some(self.fds.remove(at).1)
    }

    pub(crate) fn borrowed(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        let fds = self.fds.iter();
        fds.map(|(name, fd)| (name.as_str(), fd.as_fd())).collect()
    }
}
