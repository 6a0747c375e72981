//! Where a keeper's reply to a request goes.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, shutdown};

use super::packet;
use super::wire::{Command, REQUEST_BYTES, Reply, Request};
use crate::deadline::Deadline;

/// How long a client may take from a reply to its confirmation. The box is in use meanwhile.
const CONFIRM_LIMIT: Duration = Duration::from_secs(2);

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

    /// Whether the client confirms that it has the file of the reply. After the limit it no longer
    /// can, and notices that.
    pub(super) fn is_confirmed(&self) -> bool {
        let deadline = Deadline::within(CONFIRM_LIMIT);
        if packet::wait(self.to, PollFlags::IN, deadline) != Ok(true) {
            let _ = shutdown(self.to, Shutdown::Read);
        }
        let got = packet::receive(self.to, REQUEST_BYTES, RecvFlags::DONTWAIT);
        let request = got
            .ok()
            .flatten()
            .and_then(|got| Request::decode(&got.bytes));
        request.is_some_and(|request| request.command == Command::Got)
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
