//! The other end of the guest's serial line: standard input and output, a file, or a socket.
//!
//! Output never blocks the guest, except to a file: it goes through a bounded buffer, which also
//! holds output while nobody is connected, or reads standard output.

mod events;
mod gate;
pub(crate) mod guard;
mod modes;
mod ring;
mod terminal;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::files;
use crate::spec::ConsoleSpec;
pub(crate) use events::{ConsoleEvents, ConsoleSource};
use gate::InputGate;
pub(crate) use modes::TerminalModes;
use ring::Ring;

/// Number of bytes kept while nobody reads them.
const BUFFER: usize = 64 << 10;

/// Why a console could not be opened.
#[derive(Debug, Error)]
pub(crate) enum ConsoleError {
    #[error("Cannot open the console file {}", path.display())]
    OpenFile { path: PathBuf, source: io::Error },
    #[error("Cannot listen on the console socket {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
}

/// Where output goes.
#[derive(Debug)]
enum Sink {
    /// Standard output. Other processes share it, so it must stay blocking; it is polled first.
    Stdout(BorrowedFd<'static>),
    File(File),
    /// The client that is connected to the socket.
    Client(Option<UnixStream>),
}

/// The live console.
#[derive(Debug)]
pub(crate) struct Console {
    inner: Mutex<Inner>,
    gate: InputGate,
}

#[derive(Debug)]
struct Inner {
    sink: Sink,
    unsent: Ring,
}

impl Console {
    /// Opens the destination of output. Input and clients belong to the event loop: see
    /// [`ConsoleSource`].
    pub(crate) fn open(spec: &ConsoleSpec) -> Result<Self, ConsoleError> {
        let sink = match spec {
            ConsoleSpec::Stdio => Sink::Stdout(rustix::stdio::stdout()),
            ConsoleSpec::Socket(_) => Sink::Client(None),
            ConsoleSpec::File(path) => {
                Sink::File(
                    files::output(path).map_err(|source| ConsoleError::OpenFile {
                        path: path.clone(),
                        source,
                    })?,
                )
            }
        };
        Ok(Self::with(sink))
    }

    /// A console without a client.
    #[cfg(test)]
    pub(crate) fn buffer() -> Self {
        Self::with(Sink::Client(None))
    }

    fn with(sink: Sink) -> Self {
        Self {
            inner: Mutex::new(Inner {
                sink,
                unsent: Ring::new(BUFFER),
            }),
            gate: InputGate::default(),
        }
    }

    /// Accepts output of the guest and sends what can be sent.
    pub(crate) fn output(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.unsent.push(bytes);
        inner.send();
    }

    /// Accepts output of a guest that may not run in this process after all: it is sent by the next
    /// [`flush`](Self::flush).
    pub(crate) fn queue(&self, bytes: &[u8]) {
        self.lock().unsent.push(bytes);
    }

    /// Takes over a client from another process.
    pub(crate) fn adopt_client(&self, client: UnixStream) {
        self.lock().sink = Sink::Client(Some(client));
    }

    /// The current client, for another process.
    pub(crate) fn client(&self) -> Option<OwnedFd> {
        match &self.lock().sink {
            Sink::Client(Some(client)) => client.try_clone().ok().map(OwnedFd::from),
            _ => None,
        }
    }

    /// The gate for input: shut it while the guest is saved.
    pub(crate) fn gate(&self) -> &InputGate {
        &self.gate
    }

    /// Output that has not been sent yet.
    pub(crate) fn unsent(&self) -> Vec<u8> {
        self.lock().unsent.to_vec()
    }

    /// Replaces the client and sends it what is waiting.
    fn connect(&self, client: Option<UnixStream>) {
        let mut inner = self.lock();
        inner.sink = Sink::Client(client);
        inner.send();
    }

    /// Sends what could not be sent before.
    pub(crate) fn flush(&self) {
        self.lock().send();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Sends what can be sent without blocking.
    fn send(&mut self) {
        while !self.unsent.is_empty() {
            let sent = match &mut self.sink {
                Sink::Stdout(fd) => write_if_ready(*fd, self.unsent.front()),
                Sink::File(file) => file.write(self.unsent.front()),
                Sink::Client(Some(client)) => client.write(self.unsent.front()),
                Sink::Client(None) => return,
            };
            match sent {
                Ok(0) => return,
                Ok(count) => self.unsent.consume(count),
                // Interrupted: this vCPU is to be stopped, and must not wait here. A full socket or
                // pipe: the event loop comes back when there is space.
                Err(_) => return,
            }
        }
    }
}

/// Writes as much as a ready descriptor accepts at once: for a pipe, less than PIPE_BUF.
fn write_if_ready(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    const AT_ONCE: usize = 256;
    let no_time = Timespec::default();
    if poll(&mut [PollFd::new(&to, PollFlags::OUT)], Some(&no_time))? == 0 {
        return Ok(0);
    }
    Ok(rustix::io::write(to, &bytes[..bytes.len().min(AT_ONCE)])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn what_was_said_before_a_client_came_reaches_it() {
        let console = Console::buffer();
        console.output(b"early ");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        console.connect(Some(ours));
        console.output(b"late");
        let mut got = [0; 10];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"early late");
        assert!(console.unsent().is_empty());
    }

    #[test]
    fn a_pipe_that_nobody_reads_stops_nobody() {
        let (mut reader, writer) = io::pipe().unwrap();
        let writer: &'static io::PipeWriter = Box::leak(Box::new(writer));
        let console = Console::with(Sink::Stdout(writer.as_fd()));
        for _ in 0..1000 {
            console.output(&[b'x'; 1024]);
        }
        assert_eq!(console.unsent().len(), BUFFER);
        let mut got = vec![0; 1 << 20];
        assert!(reader.read(&mut got).unwrap() > 0);
        console.flush();
        assert!(console.unsent().len() < BUFFER);
    }

    #[test]
    fn a_client_that_does_not_read_stops_nobody() {
        let console = Console::buffer();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        console.connect(Some(ours));
        for _ in 0..1000 {
            console.output(&[b'x'; 1024]);
        }
        assert_eq!(console.unsent().len(), BUFFER);
        let mut got = vec![0; 1 << 20];
        assert!(theirs.read(&mut got).unwrap() > 0);
        console.flush();
        assert!(console.unsent().len() < BUFFER);
    }
}
