//! A VMM that is to receive a guest, at the other end of a socket.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::child::{Child, Ended};
use super::connection::{Connection, unexpected};
use super::process::time_to_end;
use crate::deadline::Deadline;
use crate::error::Chain;
use crate::member::{
    Arrive, ArrivingReply, ArrivingRequest, BOX_FD, ChannelError, Failed, Heard, Lent,
};

/// Why a VMM did not do what it was asked to.
#[derive(Debug)]
#[non_exhaustive]
pub enum ArrivingError {
    /// The VMM gave the reason.
    Failed(Failed),
    /// It ended, or closed its socket.
    Gone {
        /// Its process ID.
        pid: u32,
        /// How it ended; `None` if it is still alive.
        ended: Option<Ended>,
    },
    /// It is alive, but does not respond correctly.
    Channel {
        /// Its process ID.
        pid: u32,
        /// What is wrong.
        error: ChannelError,
    },
}

impl fmt::Display for ArrivingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failed) => write!(f, "The new VMM failed: {}", failed.message),
            Self::Gone {
                pid,
                ended: Some(ended),
            } => write!(f, "The new VMM (process {pid}) is gone: {ended}"),
            Self::Gone { pid, ended: None } => {
                write!(
                    f,
                    "The new VMM (process {pid}) closed its connection but is alive"
                )
            }
            Self::Channel { pid, error } => {
                write!(f, "The new VMM (process {pid}): {}", Chain(error))
            }
        }
    }
}

impl std::error::Error for ArrivingError {}

/// A VMM that this process started and that runs [`serve_arriving`](crate::member::serve_arriving).
/// It is killed on drop.
#[derive(Debug)]
pub struct RemoteArriving {
    connection: Connection,
    child: Child,
}

impl RemoteArriving {
    /// The VMM in `child`, which serves the other end of `socket`.
    #[must_use]
    pub fn new(child: Child, socket: UnixStream) -> Self {
        Self {
            connection: Connection::new(socket),
            child,
        }
    }

    /// The VMM's process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Closes the connection and returns the process.
    #[must_use]
    pub fn into_child(self) -> Child {
        self.child
    }

    /// Lets the VMM live on.
    pub fn let_go(self) {
        self.child.let_go();
    }

    fn fail(&mut self, error: ChannelError) -> ArrivingError {
        let pid = self.child.id();
        match error {
            ChannelError::Gone => ArrivingError::Gone {
                pid,
                ended: self.child.wait(Deadline::within(time_to_end(pid))),
            },
            error => ArrivingError::Channel { pid, error },
        }
    }

    /// Waits for its next message.
    fn hear(&mut self, limit: Duration) -> Result<ArrivingReply, ArrivingError> {
        match self.connection.hear(Deadline::within(limit), Some) {
            Ok(Heard {
                message: ArrivingReply::Failed(failed),
                ..
            }) => Err(ArrivingError::Failed(failed)),
            Ok(heard) => Ok(heard.message),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn ask(
        &mut self,
        order: &ArrivingRequest,
        lent: &Lent,
        limit: Duration,
    ) -> Result<ArrivingReply, ArrivingError> {
        match self.connection.say(order, lent, Deadline::within(limit)) {
            // A message sent before it went away says more.
            Ok(()) | Err(ChannelError::Gone) => self.hear(limit),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn expect(
        &mut self,
        word: ArrivingReply,
        expected: &ArrivingReply,
        name: &'static str,
    ) -> Result<(), ArrivingError> {
        match word == *expected {
            true => Ok(()),
            false => Err(self.fail(unexpected(&word, name))),
        }
    }

    /// Asks it to get ready for a guest, passing the guest's box, and returns the guest's place in
    /// the order.
    ///
    /// # Errors
    /// [`ArrivingError`].
    pub fn arrive(
        &mut self,
        arrive: Arrive,
        passed: OwnedFd,
        limit: Duration,
    ) -> Result<Option<u32>, ArrivingError> {
        let greeted = self.connection.greet(Deadline::within(limit));
        greeted.map_err(|error| self.fail(error))?;
        let lent = Lent {
            value: Value::Null,
            fds: vec![(BOX_FD.to_owned(), passed)],
        };
        match self.ask(&ArrivingRequest::Arrive(arrive), &lent, limit)? {
            ArrivingReply::Ready { position } => Ok(position),
            other => Err(self.fail(unexpected(&other, "ready"))),
        }
    }

    /// Asks it to build everything but the state.
    ///
    /// # Errors
    /// [`ArrivingError`].
    pub fn prebuild(&mut self, lent: &Lent, limit: Duration) -> Result<(), ArrivingError> {
        let value = lent.value.clone();
        let word = self.ask(&ArrivingRequest::Prebuild { lent: value }, lent, limit)?;
        self.expect(word, &ArrivingReply::Prebuilt {}, "prebuilt")
    }

    /// Asks it to read the state.
    ///
    /// # Errors
    /// [`ArrivingError`].
    pub fn restore(&mut self, lent: &Lent, limit: Duration) -> Result<(), ArrivingError> {
        let order = ArrivingRequest::Restore {
            lent: lent.value.clone(),
            commit: false,
        };
        let word = self.ask(&order, lent, limit)?;
        self.expect(word, &ArrivingReply::Restored {}, "restored")
    }

    /// Asks it to restore the state and take the guest, with no answer in between: for a guest that
    /// waits for nobody else. From here on the box decides who has the guest.
    ///
    /// # Errors
    /// [`ArrivingError`]: it may have taken the guest all the same.
    pub fn take_over(&mut self, lent: &Lent, limit: Duration) -> Result<(), ArrivingError> {
        let order = ArrivingRequest::Restore {
            lent: lent.value.clone(),
            commit: true,
        };
        let word = self.ask(&order, lent, limit)?;
        self.expect(word, &ArrivingReply::Running {}, "running")
    }

    /// Asks it to take the guest. From here on the box decides who has the guest.
    ///
    /// # Errors
    /// [`ArrivingError`]: it may have taken the guest all the same.
    pub fn commit(&mut self, limit: Duration) -> Result<(), ArrivingError> {
        let word = self.ask(&ArrivingRequest::Commit {}, &Lent::default(), limit)?;
        self.expect(word, &ArrivingReply::Running {}, "running")
    }

    /// Waits for a VMM that is late to report that it has the guest.
    ///
    /// # Errors
    /// [`ArrivingError`].
    pub fn wait_until_it_runs(&mut self, limit: Duration) -> Result<(), ArrivingError> {
        let word = self.hear(limit)?;
        self.expect(word, &ArrivingReply::Running {}, "running")
    }

    /// Gets its report on the guest, which is running.
    ///
    /// # Errors
    /// [`ArrivingError`].
    pub fn report(&mut self, limit: Duration) -> Result<Value, ArrivingError> {
        match self.hear(limit)? {
            ArrivingReply::Report { report } => Ok(report),
            other => Err(self.fail(unexpected(&other, "report"))),
        }
    }

    /// Passes it what the old VMM still had.
    ///
    /// # Errors
    /// [`ArrivingError`].
    pub fn adopt(&mut self, lent: &Lent, limit: Duration) -> Result<(), ArrivingError> {
        let value = lent.value.clone();
        let word = self.ask(&ArrivingRequest::Adopt { lent: value }, lent, limit)?;
        self.expect(word, &ArrivingReply::Adopted {}, "adopted")
    }
}
