//! The service manager of a keeper: systemd's notification protocol (sd_notify(3)), as far as a keeper needs it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::packet;
use crate::deadline::Deadline;

/// How long a busy manager may take for a message.
const LIMIT: Duration = Duration::from_secs(10);

/// The connection to the service manager of this process.
#[derive(Debug)]
pub struct ServiceManager(OwnedFd);

impl ServiceManager {
    /// Connects to the socket that the manager named in `NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// For example ECONNREFUSED: there is no manager.
    pub fn connect(address: &OsStr) -> Result<Self, Errno> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &address)?;
        Ok(Self(socket))
    }

    /// Reports that the service is up.
    ///
    /// # Errors
    /// ETIMEDOUT: the manager does not take the message.
    pub fn ready(&self) -> Result<(), Errno> {
        self.tell("READY=1", None)
    }

    /// Stores a descriptor until it is [removed](Self::remove), also while the service does not run.
    pub(super) fn store(&self, name: &str, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        // Without FDPOLL=0 the manager would drop a descriptor whose other end is closed.
        self.tell(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), Some(fd))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Errno> {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None)
    }

    /// Waits until the manager has processed all messages so far.
    pub(super) fn synchronize(&self) -> Result<(), Errno> {
        let (ours, theirs) = packet::pair()?;
        self.tell("BARRIER=1", Some(theirs.as_fd()))?;
        drop(theirs);
        // The manager closes its end.
        match packet::wait(ours.as_fd(), PollFlags::empty(), Deadline::within(LIMIT))? {
            true => Ok(()),
            false => Err(Errno::TIMEDOUT),
        }
    }

    fn tell(&self, message: &str, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let deadline = Deadline::within(LIMIT);
        loop {
            match packet::send(self.0.as_fd(), message.as_bytes(), fd.as_slice()) {
                Err(Errno::AGAIN) => {}
                sent => return sent,
            }
            if !packet::wait(self.0.as_fd(), PollFlags::OUT, deadline)? {
                return Err(Errno::TIMEDOUT);
            }
        }
    }
}
