//! Hands an API socket over to another process without closing a connection.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

/// How the threads of a server learn that it leaves, and the connections that they leave behind.
#[derive(Debug)]
pub(crate) struct Exit {
    event: OwnedFd,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    threads: usize,
    clients: Vec<UnixStream>,
}

/// A thread of the server, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Presence(Arc<Exit>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
        self.0.changed.notify_all();
    }
}

impl Exit {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            inner: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Counts a thread.
    pub(super) fn enter(self: &Arc<Self>) -> Presence {
        self.lock().threads += 1;
        Presence(self.clone())
    }

    /// Waits for input; false if the server leaves.
    pub(super) fn wait_readable(&self, fd: impl AsFd) -> bool {
        loop {
            let mut fds = [
                PollFd::new(&self.event, PollFlags::IN),
                PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(_) => return false,
                Ok(_) if !fds[0].revents().is_empty() => return false,
                Ok(_) => return true,
            }
        }
    }

    /// Keeps the connection of an idle client.
    pub(super) fn leave_client(&self, client: UnixStream) {
        self.lock().clients.push(client);
    }

    /// Stops accepting, waits up to `limit` until all threads but `busy` have ended, and returns
    /// the connections of idle clients.
    pub(crate) fn leave(&self, busy: usize, limit: Duration) -> Vec<UnixStream> {
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), limit, |inner| inner.threads > busy);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inner.clients)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
