//! Where input comes from: standard input, or the clients of a socket.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use super::ConsoleError;
use super::modes::TerminalModes;
use super::terminal::RawTerminal;
use crate::socket::{self, Ownership, SocketPath};
use crate::spec::ConsoleSpec;

/// The opened source of input.
#[derive(Debug)]
pub(crate) enum ConsoleSource {
    Stdin {
        terminal: Option<RawTerminal>,
    },
    Socket {
        listener: UnixListener,
        _socket_path: SocketPath,
        client: Option<UnixStream>,
    },
    /// A file only takes output.
    Nothing,
}

impl ConsoleSource {
    /// Starts to listen, if the console is a socket.
    pub(crate) fn open(spec: &ConsoleSpec, ownership: &Ownership) -> Result<Self, ConsoleError> {
        Ok(match spec {
            ConsoleSpec::File(_) => Self::Nothing,
            ConsoleSpec::Stdio => Self::Stdin {
                terminal: RawTerminal::enter(ownership),
            },
            ConsoleSpec::Socket(path) => {
                let listener = socket::listen(path)
                    .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                    .map_err(|source| ConsoleError::Listen {
                        path: path.clone(),
                        source,
                    })?;
                Self::Socket {
                    listener,
                    _socket_path: SocketPath::new(path, ownership),
                    client: None,
                }
            }
        })
    }

    /// Takes over what another process opened.
    pub(crate) fn adopt(
        spec: &ConsoleSpec,
        listener: Option<OwnedFd>,
        terminal: Option<TerminalModes>,
        ownership: &Ownership,
    ) -> Result<Self, ConsoleError> {
        Ok(match (spec, listener) {
            (ConsoleSpec::Stdio, _) => Self::Stdin {
                terminal: terminal.and_then(|modes| RawTerminal::adopt(modes, ownership)),
            },
            (ConsoleSpec::Socket(path), Some(listener)) => Self::Socket {
                listener: listener.into(),
                _socket_path: SocketPath::new(path, ownership),
                client: None,
            },
            (spec, _) => Self::open(spec, ownership)?,
        })
    }

    /// Takes over a client of another process.
    pub(crate) fn adopt_client(&mut self, new: UnixStream) {
        if let Self::Socket { client, .. } = self {
            *client = Some(new);
        }
    }

    /// A duplicate of the listening socket, for another process.
    pub(crate) fn listener(&self) -> Option<OwnedFd> {
        match self {
            Self::Socket { listener, .. } => listener.try_clone().ok().map(OwnedFd::from),
            _ => None,
        }
    }

    /// The terminal's modes before this VMM used it.
    pub(crate) fn terminal(&self) -> Option<TerminalModes> {
        match self {
            Self::Stdin { terminal } => terminal.as_ref().map(RawTerminal::modes),
            _ => None,
        }
    }
}
