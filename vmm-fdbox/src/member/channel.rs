//! JSON lines over a Unix socket, with descriptors, all with deadlines.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::deadline::Deadline;

/// The maximum number of descriptors with one line, which is the Linux limit for one message.
pub const MAX_FDS: usize = 253;
/// The maximum length of a line in bytes, including the newline.
pub const MAX_LINE_BYTES: usize = 1 << 20;
/// The size of one read.
const CHUNK_BYTES: usize = 64 << 10;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The other end has been closed.
    #[error("The other process is gone")]
    Gone,
    /// The deadline has passed.
    #[error("The other process gave no answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    /// An error of the socket.
    #[error("Cannot talk to the other process: {0}")]
    System(Errno),
    /// A line that does not belong to this protocol.
    #[error("The other process broke the protocol: {0}")]
    Nonsense(String),
    /// A line beyond [`MAX_LINE_BYTES`].
    #[error("A line of more than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// More descriptors than fit with one line.
    #[error("{0} descriptors at once: no more than {MAX_FDS} go with one line")]
    TooManyFds(usize),
    /// The kernel dropped descriptors that were sent to this process.
    #[error(
        "Descriptors were lost in transit: \
         this process has reached its limit on open files (ulimit -n)"
    )]
    FdsLost,
    /// A line whose descriptors differ from those it names.
    #[error("The line names {named} descriptors, but {came} came with it")]
    FdsDiffer {
        /// The number named in the line.
        named: usize,
        /// The number received.
        came: usize,
    },
    /// The other end speaks another version.
    #[error(
        "The other process speaks version {theirs} of the member protocol, this one version {ours}"
    )]
    Version {
        /// Its version.
        theirs: u32,
        /// [`VERSION`](super::VERSION).
        ours: u32,
    },
    /// An unexpected message.
    #[error("The other process sent '{received}' instead of '{expected}'")]
    Unexpected {
        /// The expected message.
        expected: &'static str,
        /// The message received.
        received: String,
    },
    /// The other end refuses.
    #[error("{0}")]
    Refused(String),
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Gone,
            errno => Self::System(errno),
        }
    }
}

fn nonsense(error: serde_json::Error) -> ChannelError {
    ChannelError::Nonsense(error.to_string())
}

/// A line in its wire format.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    say: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    with: Option<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fds: Vec<String>,
}

impl Line {
    /// `message` is an enum; `say` is the name of its variant.
    fn new(message: &impl Serialize, fds: Vec<String>) -> Result<Self, serde_json::Error> {
        let value = serde_json::to_value(message)?;
        let (say, with) = match value {
            Value::Object(map) if map.len() == 1 => match map.into_iter().next() {
                Some((say, with)) => (say, Some(with)),
                None => (String::new(), None),
            },
            other => (other.as_str().unwrap_or_default().to_owned(), None),
        };
        let with = with.filter(|with| *with != Value::Object(serde_json::Map::new()));
        Ok(Self { say, with, fds })
    }

    fn message<T: DeserializeOwned>(
        say: String,
        with: Option<Value>,
    ) -> Result<T, serde_json::Error> {
        let with = with.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        serde_json::from_value(Value::Object([(say, with)].into_iter().collect()))
    }
}

/// A received message.
#[derive(Debug)]
pub struct Heard<T> {
    /// The message.
    pub message: T,
    /// The descriptors that came with it, by name.
    pub fds: Vec<(String, OwnedFd)>,
}

/// What ended a wait.
#[derive(Debug)]
pub enum Woken<T> {
    /// A message arrived.
    Heard(Heard<T>),
    /// The other descriptor is ready.
    Other,
}

/// One end of a connection between a coordinator and a member.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
    /// What the kernel reads into.
    chunk: Box<[u8]>,
    /// Received bytes that do not form a whole line yet.
    buffer: Vec<u8>,
    /// Received descriptors, with the length of the buffer at that time.
    fds: VecDeque<(usize, Vec<OwnedFd>)>,
}

impl Channel {
    /// A channel over a socket with no data in transit.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            chunk: vec![0; CHUNK_BYTES].into(),
            buffer: Vec::new(),
            fds: VecDeque::new(),
        }
    }

    /// Sends a message. The descriptors are duplicated for the other process.
    ///
    /// # Errors
    /// [`ChannelError`]; after any but [`TooManyFds`](ChannelError::TooManyFds) and
    /// [`TooLong`](ChannelError::TooLong) the connection can no longer be used.
    pub fn send(
        &mut self,
        message: &impl Serialize,
        fds: &[(&str, BorrowedFd<'_>)],
        deadline: Deadline,
    ) -> Result<(), ChannelError> {
        if fds.len() > MAX_FDS {
            return Err(ChannelError::TooManyFds(fds.len()));
        }
        let names = fds.iter().map(|(name, _)| (*name).to_owned()).collect();
        let line = Line::new(message, names).map_err(nonsense)?;
        let mut bytes = serde_json::to_vec(&line).map_err(nonsense)?;
        bytes.push(b'\n');
        if bytes.len() > MAX_LINE_BYTES {
            return Err(ChannelError::TooLong);
        }
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|(_, fd)| *fd).collect();
        self.write(&bytes, &fds, deadline)
    }

    /// Sends the descriptors with the first byte.
    fn write(
        &self,
        mut bytes: &[u8],
        mut fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        while !bytes.is_empty() {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(sent) => {
                    bytes = bytes.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(Errno::AGAIN) => {
                    self.wait(PollFlags::OUT, None, deadline)?;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn receive<T: DeserializeOwned>(
        &mut self,
        deadline: Deadline,
    ) -> Result<Heard<T>, ChannelError> {
        match self.receive_or(None, deadline)? {
            Woken::Heard(heard) => Ok(heard),
            // There is no other descriptor.
            Woken::Other => Err(ChannelError::Late(deadline.limit())),
        }
    }

    /// Waits for a message, or for `other` to become readable.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn receive_or<T: DeserializeOwned>(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<Woken<T>, ChannelError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return self.take_line(end).map(Woken::Heard);
            }
            if self.buffer.len() >= MAX_LINE_BYTES {
                return Err(ChannelError::TooLong);
            }
            // Nearly always nothing has arrived yet. Whoever is to answer may be waiting for this CPU, and a
            // guest for both.
            if self.wait(PollFlags::IN, other, deadline)? {
                return Ok(Woken::Other);
            }
            self.read()?;
        }
    }

    /// Whether a message is waiting. Does not block.
    ///
    /// # Errors
    /// [`ChannelError`] if there is none and none can follow.
    pub fn has_something(&mut self) -> Result<bool, ChannelError> {
        let has_line = |buffer: &[u8]| buffer.contains(&b'\n');
        while !has_line(&self.buffer) {
            if self.buffer.len() >= MAX_LINE_BYTES {
                return Err(ChannelError::TooLong);
            }
            if !self.read()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what is available, if anything.
    fn read(&mut self) -> Result<bool, ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = loop {
            let mut buffers = [IoSliceMut::new(&mut self.chunk)];
            match recvmsg(&self.socket, &mut buffers, &mut control, flags) {
                Err(Errno::INTR) => {}
                received => break received,
            }
        };
        let received = match received {
            Err(Errno::AGAIN) => return Ok(false),
            received => received?,
        };
        let came = self.chunk.get(..received.bytes).unwrap_or_default();
        self.buffer.extend_from_slice(came);
        // Linux ends a read after the part that carried descriptors, so they belong to the line of
        // its last byte.
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds: Vec<OwnedFd> = fds.flatten().collect();
        if !fds.is_empty() {
            self.fds.push_back((self.buffer.len(), fds));
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ChannelError::FdsLost);
        }
        // A line that never ends must not exhaust the process's descriptors. The next line may
        // begin here.
        let waiting: usize = self.fds.iter().map(|(_, fds)| fds.len()).sum();
        if waiting > 2 * MAX_FDS {
            return Err(ChannelError::TooManyFds(waiting));
        }
        match received.bytes {
            0 => Err(ChannelError::Gone),
            _ => Ok(true),
        }
    }

    /// Removes the line up to `end`, with its descriptors.
    fn take_line<T: DeserializeOwned>(&mut self, end: usize) -> Result<Heard<T>, ChannelError> {
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        let Line { say, with, fds } = serde_json::from_slice(&line).map_err(nonsense)?;
        let mut came = Vec::new();
        while self.fds.front().is_some_and(|(at, _)| *at <= end + 1) {
            came.extend(self.fds.pop_front().into_iter().flat_map(|(_, fds)| fds));
        }
        self.fds.iter_mut().for_each(|(at, _)| *at -= end + 1);
        if came.len() != fds.len() {
            return Err(ChannelError::FdsDiffer {
                named: fds.len(),
                came: came.len(),
            });
        }
        Ok(Heard {
            message: Line::message(say, with).map_err(nonsense)?,
            fds: fds.into_iter().zip(came).collect(),
        })
    }

    /// Waits until the socket is ready (`false`) or `other` is (`true`).
    fn wait(
        &self,
        flags: PollFlags,
        other: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<bool, ChannelError> {
        loop {
            let left = Timespec::try_from(deadline.left()).ok();
            let mut fds = vec![PollFd::new(&self.socket, flags)];
            fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Err(ChannelError::Late(deadline.limit())),
                // A message takes precedence.
                Ok(_) => return Ok(fds[0].revents().is_empty()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<UnixStream> for Channel {
    fn from(socket: UnixStream) -> Self {
        Self::new(socket)
    }
}

#[cfg(test)]
mod tests;
