//! The side of the commands.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::protocol::{Reply, Request};

/// Why a VMM could not be asked.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    #[error("No VMM answers on {}: is the guest running, and is this its --api-socket?", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("Cannot send the request")]
    Send(#[source] io::Error),
    #[error("Cannot read the answer")]
    Receive(#[source] io::Error),
    #[error("The VMM says more than it was asked")]
    TooMuch,
    #[error("The VMM did not answer in time")]
    Late,
    #[error("The VMM went away before it answered")]
    Gone,
    #[error("The VMM's answer makes no sense to this version: {line:?}")]
    Nonsense {
        line: String,
        source: serde_json::Error,
    },
}

/// A connection to a VMM.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Connect {
            path: path.into(),
            source,
        })?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// How long to wait for each reply; `None`: for ever.
    pub(crate) fn set_limit(&mut self, limit: Option<Duration>) -> Result<(), ClientError> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(limit).map_err(ClientError::Send)
    }

    /// Sends a request, shows each reply to `watch`, and returns the final one.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
        mut watch: impl FnMut(&Reply),
    ) -> Result<Reply, ClientError> {
        self.send(request)?;
        loop {
            let reply = self.receive()?;
            if reply.is_final() {
                return Ok(reply);
            }
            watch(&reply);
        }
    }

    /// Waits until the VMM has closed the connection, which it does at its end.
    pub(crate) fn wait_for_end(mut self) {
        while self.receive().is_ok() {}
    }

    /// The connection, for another protocol. It waits for ever again.
    pub(crate) fn into_stream(self) -> Result<UnixStream, ClientError> {
        if !self.stream.buffer().is_empty() {
            return Err(ClientError::TooMuch);
        }
        let stream = self.stream.into_inner();
        stream.set_read_timeout(None).map_err(ClientError::Send)?;
        Ok(stream)
    }

    /// Sends a request that is answered until the VMM hangs up.
    pub(crate) fn listen(
        &mut self,
        request: &Request,
        mut watch: impl FnMut(&Reply) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        self.send(request)?;
        loop {
            match self.receive() {
                Ok(reply) => match watch(&reply) {
                    Ok(()) if !reply.is_final() => {}
                    _ => return Ok(()),
                },
                Err(ClientError::Gone) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_string(request)
            .map_err(|error| ClientError::Send(io::Error::other(error)))?;
        line.push('\n');
        let stream = self.stream.get_mut();
        stream.write_all(line.as_bytes()).map_err(ClientError::Send)
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(ClientError::Gone),
            Ok(_) => {
                serde_json::from_str(&line).map_err(|source| ClientError::Nonsense { line, source })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ClientError::Late),
            Err(error) => Err(ClientError::Receive(error)),
        }
    }
}
