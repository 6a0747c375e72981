//! What a VMM lends the one that takes its guest over in the same kernel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde_json::Value;

/// What goes beside the guest from its old VMM to its new one in the same kernel: sockets, taps, devices. The
/// protocol passes it on and does not look into it.
#[derive(Debug, Default)]
pub struct Lent {
    /// Whatever the new VMM is to know.
    pub value: Value,
    /// Descriptors by name. No more than [`MAX_FDS`](super::MAX_FDS), and no two of one name.
    pub fds: Vec<(String, OwnedFd)>,
}

impl Lent {
    /// A descriptor, which is no longer here.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.fds.iter().position(|(other, _)| other == name)?;
        Some(self.fds.remove(at).1)
    }

    pub(crate) fn borrowed(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        let fds = self.fds.iter();
        fds.map(|(name, fd)| (name.as_str(), fd.as_fd())).collect()
    }
}
