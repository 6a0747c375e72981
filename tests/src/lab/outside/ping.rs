//! Echo requests to one guest, and the longest time without a reply.

use std::time::{Duration, Instant};

use fdbox_lab::net;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp::{Endpoint, PacketBuffer, PacketMetadata, Socket};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr};

/// Distinguishes the lab's requests from others; the guest's number is added.
const IDENT: u16 = 0xfd00;
/// The payload of a request: it fits into the stack's smallest frames.
const PAYLOAD: &[u8] = b"fdbox";
/// Requests and replies that the stack can hold.
const PACKETS: usize = 64;
const BYTES: usize = 4096;

/// The results.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pinged {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// The longest time between two replies.
    pub(crate) largest_gap: Duration,
}

#[derive(Debug)]
pub(super) struct Ping {
    guest: u8,
    socket: SocketHandle,
    last: Option<Instant>,
    seen: Pinged,
}

impl Ping {
    pub(super) fn new(guest: u8, sockets: &mut SocketSet<'_>) -> Self {
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; PACKETS], vec![0; BYTES]);
        let mut socket = Socket::new(buffer(), buffer());
        // Fails only for a socket that is already bound.
        let _ = socket.bind(Endpoint::Ident(IDENT + u16::from(guest)));
        Self {
            guest,
            socket: sockets.add(socket),
            last: None,
            seen: Pinged::default(),
        }
    }

    pub(super) fn send(&mut self, sockets: &mut SocketSet<'_>) {
        let request = Icmpv4Repr::EchoRequest {
            ident: IDENT + u16::from(self.guest),
            seq_no: self.seen.sent as u16,
            data: PAYLOAD,
        };
        let socket = sockets.get_mut::<Socket<'_>>(self.socket);
        // If the buffer is full the request is dropped, like on any network.
        if let Ok(buffer) = socket.send(request.buffer_len(), net::guest(self.guest).into()) {
            let mut packet = Icmpv4Packet::new_unchecked(buffer);
            request.emit(&mut packet, &ChecksumCapabilities::default());
            self.seen.sent += 1;
        }
    }

    pub(super) fn receive(&mut self, sockets: &mut SocketSet<'_>) {
        let socket = sockets.get_mut::<Socket<'_>>(self.socket);
        while let Ok((answer, _)) = socket.recv() {
            let packet = Icmpv4Packet::new_checked(answer);
            let capabilities = ChecksumCapabilities::default();
            let answer = packet.and_then(|packet| {
                Icmpv4Repr::parse(&packet, &capabilities).map(
                |answer| matches!(answer, Icmpv4Repr::EchoReply { data, .. } if data == PAYLOAD),
            )
            });
            if answer == Ok(true) {
                self.seen.answered += 1;
                let now = Instant::now();
                if let Some(last) = self.last.replace(now) {
                    self.seen.largest_gap = self.seen.largest_gap.max(now - last);
                }
            }
        }
    }

    pub(super) fn seen(self) -> Pinged {
        self.seen
    }
}
