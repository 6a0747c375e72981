//! The socket between the old process and the new one: packets of JSON, with descriptors.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The longest packet in bytes.
const MAX_PACKET: usize = 64 << 10;
/// The most descriptors in a packet.
pub(super) const MAX_FDS: usize = 32;

/// Why nothing could be said or heard.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("Cannot create a socket")]
    Create(#[source] Errno),
    #[error("The other process is gone")]
    Gone,
    #[error("The other process gave no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("Cannot talk to the other process")]
    System(#[source] Errno),
    #[error("The other process says what this version does not understand")]
    Nonsense(#[from] serde_json::Error),
    #[error("The other process says too much at once")]
    TooLong,
}

impl From<Errno> for LinkError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Gone,
            errno => Self::System(errno),
        }
    }
}

/// One end.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    /// What comes in: one for all packets, for a guest may wait for the next.
    packet: RefCell<Vec<u8>>,
}

impl Link {
    /// This end, and the other one for a child.
    pub(crate) fn pair() -> Result<(Self, OwnedFd), LinkError> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(LinkError::Create)?;
        Ok((Self::from_fd(socket), other))
    }

    /// The end that the old process made this one's standard input.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self::from_fd(socket))
    }

    pub(super) fn from_fd(socket: OwnedFd) -> Self {
        let packet = RefCell::new(vec![0; MAX_PACKET]);
        Self { socket, packet }
    }

    /// Says something.
    pub(crate) fn send(
        &self,
        message: &impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), LinkError> {
        let packet = serde_json::to_vec(message)?;
        if packet.len() > MAX_PACKET || fds.len() > MAX_FDS {
            return Err(LinkError::TooLong);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL;
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&packet)], &mut control, flags) {
                Err(Errno::INTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// Waits for something to be said, for ever or until `limit` is over.
    pub(crate) fn receive<T: DeserializeOwned>(
        &self,
        limit: Option<Duration>,
    ) -> Result<(T, Vec<OwnedFd>), LinkError> {
        if let Some(limit) = limit {
            self.wait(limit)?;
        }
        let mut packet = self.packet.borrow_mut();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut buffers = [IoSliceMut::new(&mut packet)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.socket, &mut buffers, &mut control, flags) {
                Err(Errno::INTR) => {}
                received => break received?,
            }
        };
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(LinkError::TooLong);
        }
        match received.bytes {
            0 => Err(LinkError::Gone),
            bytes => Ok((serde_json::from_slice(&packet[..bytes])?, fds)),
        }
    }

    fn wait(&self, limit: Duration) -> Result<(), LinkError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Err(LinkError::Timeout(limit)),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
