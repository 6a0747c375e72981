//! Where a keeper's reply to a request goes.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::packet;
use super::wire::{Command, Reply};

/// Where a reply goes.
pub(super) struct Answer<'a> {
    pub(super) command: Command,
    pub(super) to: BorrowedFd<'a>,
}

impl Answer<'_> {
    pub(super) fn reply(&self) -> Reply {
        Reply::new(self.command)
    }

    /// Sends the reply. Returns whether it was delivered; if not, the client will never get it.
    pub(super) fn send(&self, reply: &Reply, fd: Option<BorrowedFd<'_>>) -> bool {
        packet::send(self.to, &reply.encode(), fd.as_slice()).is_ok()
    }

    pub(super) fn done(&self, done: Result<(), Errno>) {
        self.reply_with(done.map(|()| self.reply()));
    }

    /// Like [`done`](Self::done), for an operation that sends its own reply on success.
    pub(super) fn done_or<T>(
        &self,
        with: Result<T, Errno>,
        act: impl FnOnce(T) -> Result<(), Errno>,
    ) {
        if let Err(errno) = with.and_then(act) {
            self.done(Err(errno));
        }
    }

    pub(super) fn reply_with(&self, reply: Result<Reply, Errno>) {
        let failed = |errno| Reply::failed(self.command, errno);
        self.send(&reply.unwrap_or_else(failed), None);
    }
}
