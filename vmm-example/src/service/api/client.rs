//! The client side, for the commands.

use std::io::{self, BufRead, BufReader, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, UCred, recvmsg};
use thiserror::Error;

use super::protocol::{Reply, Request};

/// The maximum length of an answer in bytes. The client may be root, and the VMM compromised.
const MAX_ANSWER: u64 = 4 << 20;

/// Why a request to a VMM failed.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    #[error("No VMM answers on {}: is the guest running, and is this its --api-socket?", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("Cannot send the request")]
    Send(#[source] io::Error),
    #[error("Cannot read the answer")]
    Receive(#[source] io::Error),
    #[error("The VMM's answer is too long")]
    TooMuch,
    #[error("The VMM did not answer in time")]
    Late,
    #[error("The VMM went away before it answered")]
    Gone,
    #[error("This version does not understand the VMM's answer: {line:?}")]
    Nonsense {
        line: String,
        source: serde_json::Error,
    },
}

/// The incoming data of a connection, and the process that sent it.
#[derive(Debug)]
struct Incoming {
    stream: UnixStream,
    sender: Option<UCred>,
    /// The deadline for an answer.
    deadline: Option<Instant>,
}

impl Read for Incoming {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.stream, &mut bytes, &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmCredentials(sender) = message {
                self.sender = Some(sender);
            }
        }
        Ok(received.bytes)
    }
}

/// A connection to a VMM.
#[derive(Debug)]
pub(crate) struct Client {
    incoming: BufReader<Incoming>,
    /// How long each complete answer may take.
    limit: Option<Duration>,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Connect {
            path: path.into(),
            source,
        })?;
        // From now on the kernel reports the sender of each answer.
        set_socket_passcred(&stream, true).map_err(|errno| ClientError::Send(errno.into()))?;
        let incoming = Incoming {
            stream,
            sender: None,
            deadline: None,
        };
        Ok(Self {
            incoming: BufReader::new(incoming),
            limit: None,
        })
    }

    /// The process that sent the last answer, as reported by the kernel.
    pub(crate) fn sender(&self) -> Option<UCred> {
        self.incoming.get_ref().sender
    }

    /// Sets how long to wait for each reply; `None` for no limit.
    pub(crate) fn set_limit(&mut self, limit: Option<Duration>) -> Result<(), ClientError> {
        self.limit = limit;
        // The same for sending.
        let stream = &self.incoming.get_ref().stream;
        stream.set_write_timeout(limit).map_err(ClientError::Send)?;
        stream.set_read_timeout(limit).map_err(ClientError::Send)
    }

    /// Sends a request, passes each reply to `watch`, and returns the final one.
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

    /// Waits until the VMM closes the connection, which it does at its end.
    pub(crate) fn wait_for_end(mut self) {
        while self.receive().is_ok() {}
    }

    /// The connection, for another protocol. It has no limit any more.
    pub(crate) fn into_stream(self) -> Result<UnixStream, ClientError> {
        if !self.incoming.buffer().is_empty() {
            return Err(ClientError::TooMuch);
        }
        let stream = self.incoming.into_inner().stream;
        stream.set_read_timeout(None).map_err(ClientError::Send)?;
        set_socket_passcred(&stream, false).map_err(|errno| ClientError::Send(errno.into()))?;
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
        let stream = &mut self.incoming.get_mut().stream;
        stream.write_all(line.as_bytes()).map_err(ClientError::Send)
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        let mut line = String::new();
        self.incoming.get_mut().deadline = self.limit.map(|limit| Instant::now() + limit);
        match (&mut self.incoming).take(MAX_ANSWER).read_line(&mut line) {
            Ok(0) => Err(ClientError::Gone),
            Ok(_) if line.len() as u64 == MAX_ANSWER => Err(ClientError::TooMuch),
            Ok(_) => {
                serde_json::from_str(&line).map_err(|source| ClientError::Nonsense { line, source })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ClientError::Late),
            Err(error) => Err(ClientError::Receive(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// The result of a client whose server behaves as `answers`.
    fn asked(answers: impl FnOnce(UnixStream) + Send + 'static) -> Result<Reply, ClientError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let listener = UnixListener::bind(&path).unwrap();
        let vmm = thread::spawn(move || answers(listener.accept().unwrap().0));
        let mut client = Client::connect(&path).unwrap();
        client.set_limit(Some(Duration::from_millis(300))).unwrap();
        let answer = client.ask(&Request::Status {}, |_| {});
        drop(client);
        vmm.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_without_end_is_no_answer() {
        let answer = asked(|mut stream| while stream.write_all(&[b' '; 1 << 16]).is_ok() {});
        assert!(matches!(answer, Err(ClientError::TooMuch)), "{answer:?}");
    }

    #[test]
    fn an_answer_that_comes_bit_by_bit_is_late() {
        let answer = asked(|mut stream| {
            while stream.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        assert!(matches!(answer, Err(ClientError::Late)), "{answer:?}");
    }
}
