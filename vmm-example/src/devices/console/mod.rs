//! The other end of the guest's serial line: standard input and output, a file, or a socket.
//!
//! Output never blocks a vCPU: it goes through a bounded buffer, which also holds the output while no client is
//! connected, nobody reads standard output, or a file is slow.

mod events;
mod file_sink;
mod gate;
pub(crate) mod guard;
mod modes;
mod ring;
mod source;
mod terminal;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use thiserror::Error;
use vmm_fdbox::Deadline;

use crate::files;
use crate::spec::ConsoleSpec;
pub(crate) use events::ConsoleEvents;
use file_sink::FileSink;
use gate::InputGate;
pub(crate) use modes::TerminalModes;
use ring::Ring;
pub(crate) use source::ConsoleSource;

/// Number of bytes kept while nobody reads them.
const BUFFER: usize = 64 << 10;

/// Why a console could not be opened.
#[derive(Debug, Error)]
pub(crate) enum ConsoleError {
    #[error("Cannot open the console file {}", path.display())]
    OpenFile { path: PathBuf, source: io::Error },
    #[error("Cannot listen on the console socket {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("Cannot create the event of the console's gate")]
    CreateGate(#[source] io::Error),
    #[error("Cannot start the thread that writes the console's file")]
    Start(#[source] io::Error),
    #[error("Cannot make safe what the console's file has")]
    Sync(#[source] io::Error),
    #[error("The console's file has not taken output within {limit:?}")]
    Busy { limit: Duration },
}

/// Where output goes.
#[derive(Debug)]
enum Sink {
    /// Standard output that is not a file. It is shared and must stay blocking, so it is polled first.
    Stdout(BorrowedFd<'static>),
    File(FileSink),
    /// The client that is connected to the socket.
    Client(Option<UnixStream>),
}

/// The live console.
#[derive(Debug)]
pub(crate) struct Console {
    inner: Mutex<Inner>,
    /// The file has finished the current piece.
    taken: Condvar,
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
            ConsoleSpec::Stdio => match stdout_file() {
                Some(file) => Sink::File(FileSink::new(file)),
                None => Sink::Stdout(rustix::stdio::stdout()),
            },
            ConsoleSpec::Socket(_) => Sink::Client(None),
            ConsoleSpec::File(path) => {
                let file = files::output(path).map_err(|source| ConsoleError::OpenFile {
                    path: path.clone(),
                    source,
                })?;
                Sink::File(FileSink::new(file))
            }
        };
        Self::with(sink)
    }

    /// A console without a client.
    #[cfg(test)]
    pub(crate) fn buffer() -> Self {
        Self::with(Sink::Client(None)).unwrap()
    }

    fn with(sink: Sink) -> Result<Self, ConsoleError> {
        Ok(Self {
            inner: Mutex::new(Inner {
                sink,
                unsent: Ring::new(BUFFER),
            }),
            taken: Condvar::new(),
            gate: InputGate::new().map_err(ConsoleError::CreateGate)?,
        })
    }

    /// Starts its threads, before the guest runs and after the process has dropped its privileges. They are started
    /// once.
    pub(crate) fn start(self: &Arc<Self>) -> Result<(), ConsoleError> {
        let console = Arc::downgrade(self);
        let over = move |rest: Vec<u8>| {
            if let Some(console) = console.upgrade() {
                console.took_all_but(&rest);
            }
        };
        match &mut self.lock().sink {
            Sink::File(file) => file.start(over).map_err(ConsoleError::Start),
            Sink::Stdout(_) | Sink::Client(_) => Ok(()),
        }
    }

    /// The current piece is done; `rest` is what the file did not accept.
    fn took_all_but(&self, rest: &[u8]) {
        let mut inner = self.lock();
        let Inner { sink, unsent } = &mut *inner;
        if let Sink::File(file) = sink {
            file.over();
            unsent.put_back(rest);
        }
        if rest.is_empty() {
            inner.send();
        }
        self.taken.notify_all();
    }

    /// Stops writing to a file, and waits until the current piece is done. Later output is
    /// [unsent](Self::unsent). [`release`](Self::release) undoes this.
    pub(crate) fn hold(&self, deadline: Deadline) -> Result<(), ConsoleError> {
        let mut inner = self.lock();
        if let Sink::File(file) = &mut inner.sink {
            file.hold(true);
        }
        self.wait(inner, deadline, Inner::is_busy)
    }

    /// Syncs the file, if its data would be lost with the host's kernel.
    pub(crate) fn sync(&self) -> Result<(), ConsoleError> {
        let file = match &self.lock().sink {
            Sink::File(file) => file.unsynced(),
            Sink::Stdout(_) | Sink::Client(_) => return Ok(()),
        };
        let synced = file.and_then(|file| file.map_or(Ok(()), |file| file.sync_data()));
        synced.map_err(ConsoleError::Sync)
    }

    pub(crate) fn release(&self) {
        let mut inner = self.lock();
        if let Sink::File(file) = &mut inner.sink {
            file.hold(false);
            inner.send();
        }
    }

    /// Waits until a file has all output of the guest, unless it is held.
    pub(crate) fn finish(&self, deadline: Deadline) -> Result<(), ConsoleError> {
        let mut inner = self.lock();
        inner.send();
        self.wait(inner, deadline, Inner::is_busy)
    }

    fn wait(
        &self,
        inner: MutexGuard<'_, Inner>,
        deadline: Deadline,
        busy: impl Fn(&Inner) -> bool,
    ) -> Result<(), ConsoleError> {
        let waited = self
            .taken
            .wait_timeout_while(inner, deadline.left(), |inner| busy(inner));
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match busy(&inner) {
            false => Ok(()),
            true => Err(ConsoleError::Busy {
                limit: deadline.limit(),
            }),
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
    /// Whether a piece is being written to a file.
    fn is_busy(&self) -> bool {
        matches!(&self.sink, Sink::File(file) if file.is_busy())
    }

    /// Sends what can be sent without waiting.
    fn send(&mut self) {
        while !self.unsent.is_empty() {
            let sent = match &mut self.sink {
                Sink::Stdout(fd) => write_if_ready(*fd, self.unsent.front()),
                Sink::File(file) => return file.send(&mut self.unsent),
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

/// Standard output, if it is a file whose writes may block.
fn stdout_file() -> Option<File> {
    let stdout = rustix::stdio::stdout();
    let kind = FileType::from_raw_mode(fstat(stdout).ok()?.st_mode);
    let is_file = matches!(kind, FileType::RegularFile | FileType::BlockDevice);
    is_file
        .then(|| stdout.try_clone_to_owned().ok())?
        .map(File::from)
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
mod tests;
