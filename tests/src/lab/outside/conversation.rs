//! A TCP connection to one guest: numbered data in both directions from the first word to an
//! orderly end.

use std::time::{Duration, Instant};

use fdbox_lab::net;
use fdbox_lab::numbers::{Received, fill};
use smoltcp::iface::{Context, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use super::Seen;
use super::ping::Ping;

/// The size of the stack's buffer in each direction.
const BUFFER: usize = 64 << 10;
/// The size of each piece sent.
const PIECE: usize = 256;
/// The time limit for a guest's answer; the guest may still be booting.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The first ephemeral port; each attempt uses another one.
const FIRST_PORT: u16 = 49152;
const PORTS: u16 = 1000;

/// The result, in bytes. All zero if there was no connection.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Talked {
    pub(crate) connected: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    /// The connection ended, but not because both sides closed it.
    pub(crate) reset: bool,
    /// Both sides have closed it.
    pub(crate) ended: bool,
    /// The longest time between two arrivals of data.
    pub(crate) largest_gap: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not connected yet, and the time of the next attempt.
    Connecting {
        again: Instant,
    },
    Talking,
    /// The guest has closed its side, and the lab its own.
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

    /// Handles received data, and sends some at a tick.
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
            // If an attempt fails, there will be another.
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
            // The socket takes nothing if its buffer is full.
            self.talked.sent += socket.send_slice(&piece).unwrap_or(0) as u64;
        }
    }

    fn close(&mut self, socket: &Socket<'_>) {
        // After a reset the queue would not be empty.
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
