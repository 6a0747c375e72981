//! A stream between the guest and a program of the host behind a Unix socket.
//!
//! Each side announces the size of its buffer and how much it has consumed; the other never sends
//! more than fits. Data from the guest that the program does not read yet waits here, within the
//! announced size.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

use super::packet::{NO_RECEIVE, NO_SEND, Op, Packet, Ports};

/// The maximum amount of guest data that waits for the program.
pub(super) const BUFFER: u32 = 64 << 10;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended;

/// A connection's output to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Nothing,
    /// A packet, with this many bytes of data in the buffer.
    Packet(Packet),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ports: Ports,
    pub(super) stream: UnixStream,
    /// Whether the guest has accepted or requested it.
    open: bool,
    /// Whether the stream may have something to read.
    pub(super) readable: bool,
    /// Whether the program sends nothing more.
    ended: bool,
    /// Whether the program receives nothing more either.
    hung_up: bool,
    /// The guest's shutdown flags so far.
    guest_shutdown: u32,
    to_host: VecDeque<u8>,
    /// Number of bytes from the guest that the program has read, and the number announced to the
    /// guest.
    taken: Wrapping<u32>,
    announced: Wrapping<u32>,
    /// Number of bytes sent to the guest, the number it has consumed, and the size of its buffer.
    sent: Wrapping<u32>,
    guest_taken: Wrapping<u32>,
    guest_buffer: u32,
    /// Packets without data that are due.
    due: VecDeque<(Op, u32)>,
}

impl Connection {
    /// A connection requested by the guest.
    pub(super) fn accepted(request: &Packet, stream: UnixStream) -> Self {
        let mut new = Self::new(request.ports, stream);
        new.open = true;
        new.learn(request);
        new.due.push_back((Op::Response, 0));
        new
    }

    /// A connection requested by a program.
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

    /// Updates the credit from a packet.
    fn learn(&mut self, packet: &Packet) {
        self.guest_buffer = packet.buf_alloc;
        self.guest_taken = Wrapping(packet.fwd_cnt);
    }

    /// Handles a packet of the guest, with its data.
    pub(super) fn take(&mut self, packet: &Packet, data: &[u8]) -> Result<(), Ended> {
        self.learn(packet);
        match packet.op {
            Op::Reset => return Err(Ended),
            // No correct driver repeats a request for the same ports.
            Op::Request => return Err(Ended),
            Op::Response if !self.open => {
                self.open = true;
                let hello = format!("OK {}\n", self.ports.host);
                self.to_host.extend(hello.as_bytes());
                // The guest never sent these bytes, so they must not count.
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
        // A guest that requests credit over and over must not use up memory.
        self.due.truncate(8);
        self.flush()
    }

    /// Sends the program what it accepts.
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
            // The program may have gone by now.
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

    /// The number of bytes for which the guest has space.
    fn credit(&self) -> usize {
        let in_flight = (self.sent - self.guest_taken).0;
        self.guest_buffer.saturating_sub(in_flight) as usize
    }

    /// The next packet for the guest; its data is written to `buffer`.
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

    /// The program has closed its end. What it sent before still goes to the guest.
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
