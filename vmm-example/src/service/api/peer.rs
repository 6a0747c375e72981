//! A client from the VMM's point of view.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::protocol::{Reply, Request};

/// The maximum length of a request in bytes.
const MAX_REQUEST: usize = 64 << 10;

/// What was received from a client.
#[derive(Debug)]
pub(crate) enum Received {
    Request(Request),
    /// A line that is not a valid request, and why.
    Nonsense(String),
    /// Nothing within the limit.
    Nothing,
    /// The client has hung up.
    Gone,
}

/// The other end of a connection.
pub(crate) trait Peer {
    /// Sends a reply; false if nobody is there any more.
    fn send(&mut self, reply: &Reply) -> bool;
    /// Waits for the next request, with or without a limit.
    fn receive(&mut self, limit: Option<Duration>) -> Received;
    /// The connection, for another protocol. Everything that arrived on it must have been received.
    fn socket(&self) -> io::Result<UnixStream>;
}

/// A client of the API socket.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    /// The part of a request that has arrived so far.
    line: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
        }
    }

    /// Whether a part of a request has already been read from the socket.
    pub(super) fn has_begun(&self) -> bool {
        !self.line.is_empty() || !self.stream.buffer().is_empty()
    }

    pub(super) fn stream(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    /// Whether the client has hung up, even if data that it sent before is still unread. A client
    /// that only shut down its sending side is still there.
    pub(super) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.stream(), PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_ok()
            && fds[0].revents().intersects(PollFlags::HUP)
    }

    pub(super) fn into_stream(self) -> UnixStream {
        self.stream.into_inner()
    }

    /// Reads until a line is complete; `None` if the limit has passed.
    fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let bytes = match self.stream.fill_buf() {
                Ok([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len(), |at| at + 1);
            self.line.extend_from_slice(&bytes[..taken]);
            self.stream.consume(taken);
            if self.line.len() > MAX_REQUEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }
}

impl Peer for Connection {
    fn send(&mut self, reply: &Reply) -> bool {
        send_line(self.stream.get_mut(), reply).is_ok()
    }

    fn receive(&mut self, limit: Option<Duration>) -> Received {
        if self.stream.get_ref().set_read_timeout(limit).is_err() {
            return Received::Gone;
        }
        match self.read_line() {
            Ok(None) => Received::Nothing,
            Ok(Some(line)) => serde_json::from_slice(&line).map_or_else(
                |error| Received::Nonsense(format!("Not a request: {error}")),
                Received::Request,
            ),
            Err(_) => Received::Gone,
        }
    }

    fn socket(&self) -> io::Result<UnixStream> {
        if self.has_begun() {
            return Err(io::Error::other("more came before the answer"));
        }
        self.stream().try_clone()
    }
}

fn send_line(client: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    client.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_come_in_parts_and_time_may_pass() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut peer = Connection::new(server);
        let short = Some(Duration::from_millis(5));
        client.write_all(b"{\"verb\":").unwrap();
        assert!(matches!(peer.receive(short), Received::Nothing));
        client.write_all(b"\"status\"}\nrubbish\n").unwrap();
        let Received::Request(Request::Status {}) = peer.receive(None) else {
            panic!("not read")
        };
        assert!(matches!(peer.receive(None), Received::Nonsense(_)));
        drop(client);
        assert!(matches!(peer.receive(None), Received::Gone));
        assert!(!peer.send(&Reply::Ok));
    }

    #[test]
    fn a_request_without_end_is_cut_off() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut peer = Connection::new(server);
        let writer = std::thread::spawn(move || {
            // This fails when the other side has closed the connection.
            let _ = client.write_all(&vec![b'x'; 2 * MAX_REQUEST]);
        });
        assert!(matches!(peer.receive(None), Received::Gone));
        drop(peer);
        writer.join().unwrap();
    }
}
