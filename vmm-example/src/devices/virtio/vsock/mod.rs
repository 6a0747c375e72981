//! The socket device: streams between programs of guest and host, without a network.
//!
//! Crosses an update: the guest's CID and the path of the host's sockets. Does not cross: the
//! connections, because the programs at their other ends do not cross a kexec either; without a
//! kexec they end too. The guest is notified by a transport reset, and its connections end as if
//! reset by their peers; listening sockets stay. An update that is rolled back resets nothing.

mod connection;
mod host;
mod packet;

use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use vmm_fdbox::Finding;

use super::device::Device;
use super::device_state::{DeviceStateV1, VsockStateV1};
use super::fd_names::LISTENER;
use super::kind::Kind;
use super::ring::{BURST, RingError, Rings};
use crate::socket::Ownership;
use host::HostSide;
use packet::{HEADER, Packet, PacketError};

pub(super) const RINGS: &[u16] = &[256, 256, 16];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENT: usize = 2;
/// The maximum size of data in a packet, in either direction.
const MAX_DATA: usize = 64 << 10;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`
const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// The live device.
#[derive(Debug)]
pub(super) struct Vsock {
    cid: u64,
    host: HostSide,
    reset_due: bool,
    buffer: Vec<u8>,
}

impl Vsock {
    /// Listens on `socket` for programs that want to connect to the guest.
    pub(super) fn open(cid: u64, socket: &Path, ownership: &Ownership) -> io::Result<Self> {
        let socket = std::path::absolute(socket)?;
        Ok(Self::with(cid, HostSide::open(&socket, ownership)?))
    }

    fn with(cid: u64, host: HostSide) -> Self {
        Self {
            cid,
            host,
            reset_due: false,
            buffer: vec![0; MAX_DATA],
        }
    }

    pub(super) fn reopen(state: &VsockStateV1, ownership: &Ownership) -> io::Result<Self> {
        let mut vsock = Self::open(state.cid, &state.socket, ownership)?;
        vsock.reset_due = state.reset_due;
        Ok(vsock)
    }

    /// Takes over the socket of another process of this host, but none of its connections.
    pub(super) fn inherit(
        state: &VsockStateV1,
        listener: OwnedFd,
        ownership: &Ownership,
    ) -> io::Result<Self> {
        let host = HostSide::inherit(&state.socket, listener.into(), ownership)?;
        let mut vsock = Self::with(state.cid, host);
        vsock.reset_due = state.reset_due;
        Ok(vsock)
    }

    /// Handles what the guest sends.
    fn take(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        let Some(ring) = rings.ring(TRANSMIT) else {
            return Ok(());
        };
        let (host, buffer, cid) = (&mut self.host, &mut self.buffer, self.cid);
        ring.serve(|request| {
            let mut header = [0; HEADER];
            let read = request.input.read_exact(&mut header);
            read.map_err(|_| RingError::Incomplete)?;
            match Packet::decode(&header, cid) {
                Ok(packet) => {
                    let len = packet.len as usize;
                    let data = buffer.get_mut(..len).ok_or(RingError::Incomplete)?;
                    let read = request.input.read_exact(data);
                    read.map_err(|_| RingError::Incomplete)?;
                    counters.bytes(len);
                    host.take(&packet, data);
                }
                Err(PacketError::Unsupported(ports)) => {
                    counters.error();
                    host.reset(ports);
                }
                Err(PacketError::Misaddressed) => counters.error(),
            }
            Ok(0)
        })
    }

    /// Passes pending packets to the guest, as far as it has space.
    fn give(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        let Some(mut ring) = rings.ring(RECEIVE) else {
            return Ok(());
        };
        let mut pushed = false;
        for _ in 0..BURST {
            if !self.host.has_outgoing() || ring.is_stopped() {
                break;
            }
            let Some(mut request) = ring.pop_or_ask()? else {
                break;
            };
            let room = request.output.available_bytes();
            let room = room.checked_sub(HEADER).ok_or(RingError::Incomplete)?;
            let Some(packet) = self.host.outgoing(&mut self.buffer[..room.min(MAX_DATA)]) else {
                ring.unpop();
                break;
            };
            let data = &self.buffer[..packet.len as usize];
            let output = &mut request.output;
            let written = output.write_all(&packet.encode(self.cid));
            let written = written.and_then(|()| output.write_all(data));
            written.map_err(|_| RingError::BrokenChain)?;
            ring.push(&request, HEADER + data.len())?;
            counters.bytes(data.len());
            pushed = true;
        }
        if pushed {
            ring.signal()?;
            if self.host.has_outgoing() {
                // After others have had a turn.
                ring.again();
            }
        }
        Ok(())
    }

    /// Notifies the guest that its connections are gone, if that is due and it has space.
    fn tell_reset(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let Some(mut ring) = rings.ring(EVENT).filter(|_| self.reset_due) else {
            return Ok(());
        };
        let Some(mut request) = ring.pop_or_ask()? else {
            return Ok(());
        };
        let written = request.output.write_all(&TRANSPORT_RESET);
        written.map_err(|_| RingError::Incomplete)?;
        ring.push(&request, TRANSPORT_RESET.len())?;
        self.reset_due = false;
        ring.signal()
    }
}

impl Device for Vsock {
    fn kind(&self) -> Kind {
        Kind::Vsock
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        RINGS
    }

    fn config(&self) -> Vec<u8> {
        self.cid.to_le_bytes().to_vec()
    }

    fn reset(&mut self) {
        self.host.clear();
        self.reset_due = false;
    }

    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        match ring {
            EVENT => self.tell_reset(rings)?,
            TRANSMIT => self.take(rings)?,
            _ => {}
        }
        self.serve_source(rings)
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.host.source())
    }

    fn serve_source(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        self.host.poll();
        self.give(rings)
    }

    fn serve_restored(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        self.reset_due = true;
        self.tell_reset(rings)
    }

    fn state(&self) -> DeviceStateV1 {
        DeviceStateV1::Vsock(VsockStateV1 {
            cid: self.cid,
            socket: self.host.path().into(),
            reset_due: self.reset_due,
        })
    }

    fn catch_up(&mut self, state: &DeviceStateV1) -> io::Result<()> {
        if let DeviceStateV1::Vsock(state) = state {
            self.reset_due = state.reset_due;
        }
        Ok(())
    }

    fn lend(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        Ok(vec![(LISTENER, self.host.listener()?)])
    }

    fn findings(&self, _carried: bool) -> Vec<Finding> {
        match self.host.connections() {
            0 => Vec::new(),
            count => vec![Finding::warning(
                "",
                format!("{count} connections will be reset"),
                "have their programs connect again",
            )],
        }
    }
}

#[cfg(test)]
mod tests;
