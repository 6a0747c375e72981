//! A stream between the guest and a program of the host, which sits behind a Unix socket.
//!
//! Each side tells how large its buffer is and how much it has taken out of it; the other
//! never sends more than fits. What comes from the guest and the program does not take yet
//! waits here, within what the guest was told.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

use super::packet::{NO_RECEIVE, NO_SEND, Op, Packet, Ports};

/// Bytes from the guest that wait for the program at most.
pub(super) const BUFFER: u32 = 64 << 10;

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended;

/// What a connection has for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Nothing,
    /// A packet, with so many bytes of data in the buffer.
    Packet(Packet),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ports: Ports,
    pub(super) stream: UnixStream,
    /// The guest has accepted it, or asked for it.
    open: bool,
    /// Whether the stream may have something to read.
    pub(super) readable: bool,
    /// Nothing more comes from the program.
    ended: bool,
    /// The program takes nothing more either.
    hung_up: bool,
    /// The guest's shutdown flags so far.
    guest_shutdown: u32,
    to_host: VecDeque<u8>,
    /// Bytes from the guest that the program has taken, and what the guest knows of that.
    taken: Wrapping<u32>,
    announced: Wrapping<u32>,
    /// Bytes to the guest, what it has taken of them, and its buffer.
    sent: Wrapping<u32>,
    guest_taken: Wrapping<u32>,
    guest_buffer: u32,
    /// Packets without data that are due.
    due: VecDeque<(Op, u32)>,
}

impl Connection {
    /// A connection that the guest asked for.
    pub(super) fn accepted(request: &Packet, stream: UnixStream) -> Self {
        let mut new = Self::new(request.ports, stream);
        new.open = true;
        new.learn(request);
        new.due.push_back((Op::Response, 0));
        new
    }

    /// A connection that a program asks the guest for.
    pub(super) fn requested(ports: Ports, stream: UnixStream) -> Self {
        let mut new = Self::new(ports, stream);
        new.due.push_back((Op::Request, 0));
        new
    }

    fn new(ports: Ports, stream: UnixStream) -> Self {
        Self {
            ports,
            stream,
            open: false,
            readable: true,
            ended: false,
            hung_up: false,
            guest_shutdown: 0,
            to_host: VecDeque::new(),
            taken: Wrapping(0),
            announced: Wrapping(0),
            sent: Wrapping(0),
            guest_taken: Wrapping(0),
            guest_buffer: 0,
            due: VecDeque::new(),
        }
    }

    /// Takes the credit that every packet carries.
    fn learn(&mut self, packet: &Packet) {
        self.guest_buffer = packet.buf_alloc;
        self.guest_taken = Wrapping(packet.fwd_cnt);
    }

    /// Takes a packet of the guest, with its data.
    pub(super) fn take(&mut self, packet: &Packet, data: &[u8]) -> Result<(), Ended> {
        self.learn(packet);
        match packet.op {
            Op::Reset => return Err(Ended),
            // A second request for the same ends is none that a driver makes.
            Op::Request => return Err(Ended),
            Op::Response if !self.open => {
                self.open = true;
                let hello = format!("OK {}\n", self.ports.host);
                self.to_host.extend(hello.as_bytes());
                // The guest never sent these bytes: its count must not have them.
                self.taken -= Wrapping(hello.len() as u32);
            }
            Op::Response | Op::CreditUpdate => {}
            Op::CreditRequest => self.due.push_back((Op::CreditUpdate, 0)),
            Op::Shutdown => self.guest_shutdown |= packet.flags & (NO_RECEIVE | NO_SEND),
            Op::Data => {
                let room = BUFFER as usize - self.to_host.len().min(BUFFER as usize);
                if !self.open || data.len() > room || self.guest_shutdown & NO_SEND != 0 {
                    return Err(Ended);
                }
                self.to_host.extend(data);
            }
        }
        // A guest that asks for credit over and over does not get memory for it.
        self.due.truncate(8);
        self.flush()
    }

    /// Gives the program what it takes.
    pub(super) fn flush(&mut self) -> Result<(), Ended> {
        while !self.to_host.is_empty() {
            match self.stream.write(self.to_host.as_slices().0) {
                Ok(0) => return Err(Ended),
                Ok(count) => {
                    drop(self.to_host.drain(..count));
                    self.taken += Wrapping(count as u32);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Ended),
            }
        }
        if self.guest_shutdown == NO_RECEIVE | NO_SEND {
            return Err(Ended);
        }
        if self.guest_shutdown & NO_SEND != 0 {
            // It may have gone itself by now.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        // Half of the buffer is free and the guest does not know.
        if (self.taken - self.announced).0.cast_signed() >= (BUFFER / 2).cast_signed()
            && self.due.is_empty()
        {
            self.due.push_back((Op::CreditUpdate, 0));
        }
        Ok(())
    }

    /// Whether [`outgoing`](Self::outgoing) may have something.
    pub(super) fn has_outgoing(&self) -> bool {
        !self.due.is_empty() || (self.can_read() && self.credit() > 0)
    }

    fn can_read(&self) -> bool {
        self.open && self.readable && !self.ended && self.guest_shutdown & NO_RECEIVE == 0
    }

    /// Bytes that the guest has room for.
    fn credit(&self) -> usize {
        let in_flight = (self.sent - self.guest_taken).0;
        self.guest_buffer.saturating_sub(in_flight) as usize
    }

    /// The next packet for the guest; its data goes into `buffer`.
    pub(super) fn outgoing(&mut self, buffer: &mut [u8]) -> Outgoing {
        if let Some((op, flags)) = self.due.pop_front() {
            return Outgoing::Packet(self.packet(op, flags, 0));
        }
        let room = buffer.len().min(self.credit());
        while self.can_read() && room > 0 {
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => {
                    self.ended = true;
                    let flags = NO_SEND | if self.hung_up { NO_RECEIVE } else { 0 };
                    return Outgoing::Packet(self.packet(Op::Shutdown, flags, 0));
                }
                Ok(count) => {
                    self.sent += Wrapping(count as u32);
                    return Outgoing::Packet(self.packet(Op::Data, 0, count as u32));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_) => {
                    self.ended = true;
                    let flags = NO_SEND | NO_RECEIVE;
                    return Outgoing::Packet(self.packet(Op::Shutdown, flags, 0));
                }
            }
        }
        Outgoing::Nothing
    }

    /// The program has closed its end for good. What it said before still goes to the guest.
    pub(super) fn hang_up(&mut self) {
        if std::mem::replace(&mut self.hung_up, true) {
            return;
        }
        self.readable = true;
        if self.ended {
            self.due.push_back((Op::Shutdown, NO_RECEIVE | NO_SEND));
        }
    }

    fn packet(&mut self, op: Op, flags: u32, len: u32) -> Packet {
        self.announced = self.taken;
        Packet {
            len,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.taken.0,
            ..Packet::new(self.ports, op)
        }
    }
}
