//! A TCP connection to one guest: numbered data both ways from its first word to its orderly end.

use std::time::{Duration, Instant};

use fdbox_lab::net;
use fdbox_lab::numbers::{Received, fill};
use smoltcp::iface::{Context, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use super::Seen;
use super::ping::Ping;

/// What the stack holds each way.
const BUFFER: usize = 64 << 10;
/// What is sent at once.
const PIECE: usize = 256;
/// How long a guest may take to answer; it may not be up yet.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Ports for connections of one's own; each try takes another one.
const FIRST_PORT: u16 = 49152;
const PORTS: u16 = 1000;

/// What came of it, in bytes. All of it zero: there was no connection.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Talked {
    pub(crate) connected: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    /// It ended, and not by both sides closing it.
    pub(crate) reset: bool,
    /// Both sides have closed it.
    pub(crate) ended: bool,
    /// The longest time between two arrivals of data.
    pub(crate) largest_gap: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not connected yet, and when that is to be tried again.
    Connecting {
        again: Instant,
    },
    Talking,
    /// The guest has closed its side, and so have we.
    Closing,
    Over,
}

#[derive(Debug)]
pub(super) struct Conversation {
    guest: u8,
    socket: SocketHandle,
    ping: Ping,
    phase: Phase,
    tries: u16,
    received: Received,
    last: Option<Instant>,
    talked: Talked,
}

impl Conversation {
    pub(super) fn new(guest: u8, sockets: &mut SocketSet<'_>) -> Self {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        Self {
            guest,
            socket: sockets.add(socket),
            ping: Ping::new(guest, sockets),
            phase: Phase::Connecting {
                again: Instant::now(),
            },
            tries: 0,
            received: Received::default(),
            last: None,
            talked: Talked::default(),
        }
    }

    /// Takes what came, and at a tick sends something.
    pub(super) fn go_on(&mut self, sockets: &mut SocketSet<'_>, cx: &mut Context, tick: bool) {
        self.ping.receive(sockets);
        let socket = sockets.get_mut::<Socket<'_>>(self.socket);
        match self.phase {
            Phase::Connecting { again } => self.connect(socket, cx, again),
            Phase::Talking => self.talk(socket, tick),
            Phase::Closing => self.close(socket),
            Phase::Over => {}
        }
        if tick && self.phase == Phase::Talking {
            self.ping.send(sockets);
        }
    }

    fn connect(&mut self, socket: &mut Socket<'_>, cx: &mut Context, again: Instant) {
        if socket.state() == State::Established {
            self.talked.connected = true;
            self.phase = Phase::Talking;
        } else if Instant::now() >= again {
            socket.abort();
            let port = FIRST_PORT + u16::from(self.guest) * PORTS + self.tries % PORTS;
            self.tries = self.tries.wrapping_add(1);
            // A try that cannot be made is made again.
            let _ = socket.connect(cx, (net::guest(self.guest), net::PORT), port);
            self.phase = Phase::Connecting {
                again: Instant::now() + CONNECT_LIMIT,
            };
        }
    }

    fn talk(&mut self, socket: &mut Socket<'_>, tick: bool) {
        self.receive(socket);
        if !socket.is_active() {
            self.talked.reset = true;
            self.phase = Phase::Over;
        } else if !socket.may_recv() {
            socket.close();
            self.phase = Phase::Closing;
        } else if tick {
            let mut piece = [0; PIECE];
            fill(self.talked.sent, &mut piece);
            // It takes nothing when its buffer is full.
            self.talked.sent += socket.send_slice(&piece).unwrap_or(0) as u64;
        }
    }

    fn close(&mut self, socket: &Socket<'_>) {
        // A reset would not let the queue run empty.
        if !socket.is_active() || socket.state() == State::TimeWait {
            self.talked.ended = socket.send_queue() == 0;
            self.talked.reset = !self.talked.ended;
            self.phase = Phase::Over;
        }
    }

    fn receive(&mut self, socket: &mut Socket<'_>) {
        let mut buffer = [0; BUFFER];
        while let Ok(count @ 1..) = socket.recv_slice(&mut buffer) {
            self.received.take(&buffer[..count]);
            let now = Instant::now();
            if let Some(last) = self.last.replace(now) {
                self.talked.largest_gap = self.talked.largest_gap.max(now - last);
            }
        }
        self.talked.received = self.received.bytes();
        self.talked.lost = self.received.lost();
        self.talked.repeated = self.received.repeated();
    }

    pub(super) fn seen(self) -> Seen {
        Seen {
            tcp: self.talked,
            ping: self.ping.seen(),
        }
    }
}
