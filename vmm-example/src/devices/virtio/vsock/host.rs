//! The host's side: Unix sockets that represent ports.
//!
//! | who connects | to what | what happens |
//! |---|---|---|
//! | the guest | CID 2, port P | the VMM connects to the Unix socket `PATH_P` |
//! | a program | the Unix socket `PATH` | it writes `CONNECT P\n` and is connected to the guest's port P once it reads `OK N\n` |

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::connection::{Connection, Outgoing};
use super::packet::{Op, Packet, Ports};
use crate::socket::{self, Ownership, SocketPath};

/// The maximum number of connections, including programs that have not named a port yet: a quarter
/// of the usual limit on open descriptors, and with [`BUFFER`](super::connection::BUFFER) for each
/// 16 MiB.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// The maximum number of resets that wait for a buffer of the guest; a guest that provides none
/// gets no more.
const MAX_RESETS: usize = 1024;
/// `CONNECT 4294967295\n`
const MAX_GREETING: usize = 19;
/// Host ports of connections requested by programs: far from those that programs listen on.
const FIRST_PORT: u32 = 1 << 30;
const LISTENER: u64 = u64::MAX;

/// A program that has connected and not named a port yet.
#[derive(Debug)]
struct Caller {
    stream: UnixStream,
    greeting: Vec<u8>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct HostSide {
    place: SocketPath,
    listener: UnixListener,
    epoll: OwnedFd,
    next_id: u64,
    next_port: u32,
    callers: HashMap<u64, Caller>,
    connections: HashMap<u64, Connection>,
    by_ports: HashMap<Ports, u64>,
    resets: VecDeque<Ports>,
    /// The order in which connections send to the guest.
    turns: VecDeque<u64>,
}

impl HostSide {
    /// Listens on `path`.
    pub(super) fn open(path: &Path, ownership: &Ownership) -> io::Result<Self> {
        Self::inherit(path, socket::listen(path)?, ownership)
    }

    /// Takes over a socket that listens on `path`.
    pub(super) fn inherit(
        path: &Path,
        listener: UnixListener,
        ownership: &Ownership,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            place: SocketPath::new(path, ownership),
            listener,
            epoll,
            next_id: 0,
            next_port: FIRST_PORT,
            callers: HashMap::new(),
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            resets: VecDeque::new(),
            turns: VecDeque::new(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    /// A duplicate of the listening socket.
    pub(super) fn listener(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone().map(OwnedFd::from)
    }

    /// Becomes readable when [`poll`](Self::poll) has something to do.
    pub(super) fn source(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The guest's driver is gone, and with it all connections.
    pub(super) fn clear(&mut self) {
        self.connections.clear();
        self.by_ports.clear();
        self.resets.clear();
        self.turns.clear();
    }

    /// Handles the events of the sockets.
    pub(super) fn poll(&mut self) {
        let mut events = [const {
            Event {
                flags: EventFlags::empty(),
                data: EventData::new_u64(0),
            }
        }; 64];
        loop {
            let timeout = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let Ok(count) = epoll::wait(&self.epoll, &mut events, Some(&timeout)) else {
                return;
            };
            for event in &events[..count] {
                let (flags, id) = (event.flags, event.data.u64());
                match id {
                    LISTENER => self.accept(),
                    _ => self.on_stream(id, flags),
                }
            }
            if count < events.len() {
                return;
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let full = self.callers.len() + self.connections.len() >= MAX_CONNECTIONS;
            // One connection too many is closed.
            if full || stream.set_nonblocking(true).is_err() {
                continue;
            }
            if let Some(id) = self.watch(&stream) {
                let greeting = Vec::new();
                self.callers.insert(id, Caller { stream, greeting });
                self.on_caller(id);
            }
        }
    }

    /// Watches a stream for everything; its events have the returned number.
    fn watch(&mut self, stream: &UnixStream) -> Option<u64> {
        let id = self.next_id;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, stream, EventData::new_u64(id), flags).ok()?;
        self.next_id += 1;
        Some(id)
    }

    fn on_stream(&mut self, id: u64, flags: EventFlags) {
        if self.callers.contains_key(&id) {
            return self.on_caller(id);
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if flags.contains(EventFlags::HUP) {
            connection.hang_up();
        }
        connection.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        if flags.contains(EventFlags::OUT) && connection.flush().is_err() {
            return self.end(id, true);
        }
        self.wants_turn(id);
    }

    /// Reads the requested port byte by byte, because what follows is for the guest.
    fn on_caller(&mut self, id: u64) {
        let Some(caller) = self.callers.get_mut(&id) else {
            return;
        };
        let mut byte = [0];
        while caller.greeting.last() != Some(&b'\n') {
            match caller.stream.read(&mut byte) {
                Ok(1) if caller.greeting.len() < MAX_GREETING => caller.greeting.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => return drop(self.callers.remove(&id)),
            }
        }
        let Some(caller) = self.callers.remove(&id) else {
            return;
        };
        if let Some(guest) = port(&caller.greeting) {
            let host = self.free_port(guest);
            let ports = Ports { host, guest };
            self.insert(id, Connection::requested(ports, caller.stream));
        }
    }

    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    fn insert(&mut self, id: u64, connection: Connection) {
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        self.wants_turn(id);
    }

    fn wants_turn(&mut self, id: u64) {
        let wants = self
            .connections
            .get(&id)
            .is_some_and(Connection::has_outgoing);
        if wants && !self.turns.contains(&id) {
            self.turns.push_back(id);
        }
    }

    /// Handles a packet of the guest.
    pub(super) fn take(&mut self, packet: &Packet, data: &[u8]) {
        match self.by_ports.get(&packet.ports).copied() {
            Some(id) => {
                let Some(connection) = self.connections.get_mut(&id) else {
                    return;
                };
                match connection.take(packet, data) {
                    Ok(()) => self.wants_turn(id),
                    Err(_) => self.end(id, packet.op != Op::Reset),
                }
            }
            None if packet.op == Op::Request => self.connect(packet),
            None if packet.op == Op::Reset => {}
            None => self.reset(packet.ports),
        }
    }

    /// Connects the guest to the program behind a port.
    fn connect(&mut self, packet: &Packet) {
        let full = self.callers.len() + self.connections.len() >= MAX_CONNECTIONS;
        let stream = match full {
            true => None,
            false => dial(self.place.path(), packet.ports.host).ok(),
        };
        let watched = stream.and_then(|stream| Some((self.watch(&stream)?, stream)));
        match watched {
            Some((id, stream)) => self.insert(id, Connection::accepted(packet, stream)),
            None => self.reset(packet.ports),
        }
    }

    /// Tells the guest that there is no such connection.
    pub(super) fn reset(&mut self, ports: Ports) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(ports);
        }
    }

    fn end(&mut self, id: u64, tell: bool) {
        if let Some(connection) = self.connections.remove(&id) {
            self.by_ports.remove(&connection.ports);
            if tell {
                self.reset(connection.ports);
            }
        }
    }

    /// Whether [`outgoing`](Self::outgoing) may have something.
    pub(super) fn has_outgoing(&self) -> bool {
        !self.resets.is_empty() || !self.turns.is_empty()
    }

    /// The next packet for the guest; its data is written to `buffer`.
    pub(super) fn outgoing(&mut self, buffer: &mut [u8]) -> Option<Packet> {
        if let Some(ports) = self.resets.pop_front() {
            return Some(Packet::new(ports, Op::Reset));
        }
        while let Some(id) = self.turns.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            if let Outgoing::Packet(packet) = connection.outgoing(buffer) {
                self.wants_turn(id);
                return Some(packet);
            }
        }
        None
    }
}

/// The port in `CONNECT P\n`.
fn port(greeting: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(greeting).ok()?;
    line.strip_prefix("CONNECT ")?.trim_end().parse().ok()
}

/// Connects to the program behind a port, without waiting for it to accept.
fn dial(path: &Path, port: u32) -> io::Result<UnixStream> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{port}"));
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(Path::new(&name))?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_name_a_port() {
        assert_eq!(port(b"CONNECT 52\n"), Some(52));
        assert_eq!(port(b"CONNECT 52\r\n"), Some(52));
        for bad in [
            "CONNECT\n",
            "CONNECT x\n",
            "HELLO 5\n",
            "CONNECT 4294967296\n",
        ] {
            assert_eq!(port(bad.as_bytes()), None, "{bad}");
        }
    }
}
