//! A coordinator's end of a connection to a member.

use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::deadline::Deadline;
use crate::lease::outlast;
use crate::member::{Channel, ChannelError, Greeting, Heard, Lent, VERSION, name_of};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Connection(Channel);

impl Connection {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(Channel::new(socket))
    }

    /// Exchanges `hello`.
    pub(super) fn greet(&mut self, deadline: Deadline) -> Result<(), ChannelError> {
        outlast(deadline.left());
        let hello = Greeting::Hello { version: VERSION };
        self.0.send(&hello, &[], deadline)?;
        let heard = self.0.receive::<Greeting>(deadline)?;
        match heard.message {
            Greeting::Hello { version: VERSION } => Ok(()),
            Greeting::Hello { version } => Err(ChannelError::Version {
                theirs: version,
                ours: VERSION,
            }),
        }
    }

    pub(super) fn say(
        &mut self,
        order: &impl Serialize,
        lent: &Lent,
        deadline: Deadline,
    ) -> Result<(), ChannelError> {
        outlast(deadline.left());
        self.0.send(order, &lent.borrowed(), deadline)
    }

    /// Waits for a message that `aside` does not consume, and returns it.
    pub(super) fn hear<W: DeserializeOwned>(
        &mut self,
        deadline: Deadline,
        mut aside: impl FnMut(W) -> Option<W>,
    ) -> Result<Heard<W>, ChannelError> {
        outlast(deadline.left());
        loop {
            let Heard { message, fds } = self.0.receive::<W>(deadline)?;
            if let Some(message) = aside(message) {
                return Ok(Heard { message, fds });
            }
        }
    }

    pub(super) fn has_something(&mut self) -> Result<bool, ChannelError> {
        self.0.has_something()
    }
}

/// The error for a message other than the expected one.
pub(super) fn unexpected(received: &impl Serialize, expected: &'static str) -> ChannelError {
    ChannelError::Unexpected {
        expected,
        received: name_of(received),
    }
}
