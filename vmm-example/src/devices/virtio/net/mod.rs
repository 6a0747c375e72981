//! The network device: frames between the guest and a tap of the host.
//!
//! Crosses an update: the tap's identity, the MAC addresses of both ends, because each is in the
//! other's neighbour table, and the one frame that has left the tap and found no buffer. Does not
//! cross: frames in the tap's own queue, which its peers send again, as over any wire; a tap that
//! was passed by descriptor, which must be passed again.
//!
//! There are no offloads: every frame is complete, with its checksum in place.

mod tap;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF};
use vmm_fdbox::Finding;

use super::counters::Counters;
use super::device::{Device, bits};
use super::device_state::{DeviceStateV1, NetStateV1, TapSource};
use super::fd_names::TAP;
use super::kind::Kind;
use super::ring::{Request, Ring, RingError, Rings};
use super::spec::Mac;
use crate::inherited;
use tap::{HEADER, Tap};

pub(super) const FEATURES: u64 = bits(&[VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF]);
pub(super) const RINGS: &[u16] = &[256, 256];
const RECEIVE: usize = 0;
/// The maximum length of a frame of a tap, with its header.
const MAX_FRAME: usize = 65_535 + 14 + HEADER;
/// The maximum number of frames taken from the tap before others get the device's lock.
const BURST: usize = 256;
/// The offset in the header of the number of buffers of a frame.
const NUM_BUFFERS_AT: usize = 10;

/// The live device.
#[derive(Debug)]
pub(super) struct Net {
    tap: File,
    source: TapSource,
    mac: [u8; 6],
    tap_mac: Option<[u8; 6]>,
    mergeable: bool,
    /// An incoming frame, header first; empty if there is none.
    waiting: Vec<u8>,
    buffer: Vec<u8>,
}

impl Net {
    /// Attaches to a tap by name.
    pub(super) fn open(name: &str, mac: Option<Mac>) -> io::Result<Self> {
        let tap = Tap::open(name)?;
        Self::new(tap, TapSource::Name(name.into()), mac)
    }

    /// Takes over a tap that is open in this process.
    pub(super) fn adopt(fd: RawFd, mac: Option<Mac>) -> io::Result<Self> {
        let tap = Tap::adopt(inherited::duplicate(fd)?)?;
        Self::new(tap, TapSource::Descriptor, mac)
    }

    fn new(tap: Tap, source: TapSource, mac: Option<Mac>) -> io::Result<Self> {
        let mac = match mac {
            Some(Mac(mac)) => mac,
            None => random_mac()?,
        };
        let tap_mac = tap.mac();
        let mut net = Self::with(tap.into_file(), source, mac);
        net.tap_mac = tap_mac;
        Ok(net)
    }

    fn with(tap: File, source: TapSource, mac: [u8; 6]) -> Self {
        Self {
            tap,
            source,
            mac,
            tap_mac: None,
            mergeable: false,
            waiting: Vec::new(),
            buffer: vec![0; MAX_FRAME],
        }
    }

    /// Attaches to the tap again; `handed_in` replaces a tap that was passed by descriptor.
    pub(super) fn reopen(state: &NetStateV1, handed_in: Option<RawFd>) -> io::Result<Self> {
        let mac = Some(Mac(state.mac));
        let mut net = match (&state.tap, handed_in) {
            (TapSource::Name(name), _) => Self::open(name, mac)?,
            (TapSource::Descriptor, Some(fd)) => Self::adopt(fd, mac)?,
            (TapSource::Descriptor, None) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it was passed as a descriptor: pass it again, with --net fd=N",
                ));
            }
        };
        net.restore(state)?;
        Ok(net)
    }

    /// Takes over a tap that another process is attached to.
    pub(super) fn inherit(state: &NetStateV1, tap: OwnedFd) -> io::Result<Self> {
        let tap = Tap::adopt(tap)?;
        let mut net = Self::new(tap, state.tap.clone(), Some(Mac(state.mac)))?;
        net.restore(state)?;
        Ok(net)
    }

    /// Restores what the other ends know, and the frame that was in transit.
    fn restore(&mut self, state: &NetStateV1) -> io::Result<()> {
        if let Some(mac) = state.tap_mac.filter(|mac| self.tap_mac != Some(*mac)) {
            tap::set_mac(&self.tap, mac)?;
            self.tap_mac = Some(mac);
        }
        let len = state.waiting.len();
        if len != 0 && !(HEADER + 1..=MAX_FRAME).contains(&len) {
            let what = format!("a waiting frame of {len} bytes, which is impossible");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.waiting.clone_from(&state.waiting);
        Ok(())
    }

    /// Passes frames from the tap to the guest, as far as it has space.
    fn receive(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        let Some(mut ring) = rings.ring(RECEIVE) else {
            return Ok(());
        };
        let mut pushed = false;
        let mut emptied = false;
        for _ in 0..BURST {
            if ring.is_stopped() {
                break;
            }
            if self.waiting.is_empty() && !self.take_frame() {
                emptied = true;
                break;
            }
            match deliver(&mut ring, &mut self.waiting, self.mergeable, counters)? {
                Delivered::NoRoom => {
                    emptied = true;
                    break;
                }
                Delivered::Done => pushed = true,
            }
            self.waiting.clear();
        }
        if pushed {
            ring.signal()?;
        }
        if !emptied && !ring.is_stopped() {
            // Events are edge-triggered: come back for the rest.
            rings.again(RECEIVE);
        }
        Ok(())
    }

    /// Takes a frame from the tap; false if there is none.
    fn take_frame(&mut self) -> bool {
        loop {
            return match (&self.tap).read(&mut self.buffer) {
                Ok(len) if len > HEADER => {
                    self.waiting.extend(&self.buffer[..len]);
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A tap that has disappeared provides nothing either.
                Ok(_) | Err(_) => false,
            };
        }
    }

    /// Passes frames from the guest to the tap.
    fn send(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        let Some(ring) = rings.ring(ring) else {
            return Ok(());
        };
        let (mut tap, buffer) = (&self.tap, &mut self.buffer);
        ring.serve(|request| {
            let len = request.input.available_bytes();
            let sent = (HEADER + 1..=MAX_FRAME).contains(&len) && {
                let frame = &mut buffer[..len];
                request.input.read_exact(frame).is_ok() && {
                    // No offload was negotiated, so the header is empty.
                    frame[..HEADER].fill(0);
                    tap.write(frame).is_ok()
                }
            };
            match sent {
                true => counters.bytes(len - HEADER),
                false => counters.error(),
            }
            Ok(0)
        })
    }
}

/// The fate of a frame.
enum Delivered {
    Done,
    NoRoom,
}

/// Puts a frame into the guest's buffers: into several if the driver supports that.
fn deliver<'a>(
    ring: &mut Ring<'_, 'a>,
    frame: &mut [u8],
    mergeable: bool,
    counters: &Counters,
) -> Result<Delivered, RingError> {
    let mut taken: Vec<(Request<'a>, usize)> = Vec::new();
    let mut room = 0;
    while room < frame.len() && (mergeable || taken.is_empty()) {
        let Some(request) = ring.pop_or_ask()? else {
            taken.iter().for_each(|_| ring.unpop());
            return Ok(Delivered::NoRoom);
        };
        let bytes = request.output.available_bytes();
        if bytes < HEADER {
            return Err(RingError::Incomplete);
        }
        room += bytes;
        taken.push((request, bytes));
    }
    if room < frame.len() {
        // A frame that does not fit into the driver's buffer is dropped; the buffer is used up.
        counters.error();
        ring.push(&taken[0].0, 0)?;
        return Ok(Delivered::Done);
    }
    let count = u16::try_from(taken.len()).map_err(|_| RingError::Incomplete)?;
    frame[NUM_BUFFERS_AT..HEADER].copy_from_slice(&count.to_le_bytes());
    let mut rest = &frame[..];
    for (request, bytes) in &mut taken {
        let (part, behind) = rest.split_at(rest.len().min(*bytes));
        let written = request.output.write_all(part);
        written.map_err(|_| RingError::BrokenChain)?;
        ring.push(request, part.len())?;
        rest = behind;
    }
    counters.bytes(frame.len() - HEADER);
    Ok(Delivered::Done)
}

/// A random address: locally administered, unicast.
fn random_mac() -> io::Result<[u8; 6]> {
    let mut mac = [0; 6];
    getrandom(&mut mac, GetRandomFlags::empty())?;
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(mac)
}

impl Device for Net {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &'static [u16] {
        RINGS
    }

    /// `struct virtio_net_config`, as far as the features require.
    fn config(&self) -> Vec<u8> {
        self.mac.to_vec()
    }

    fn activate(&mut self, features: u64) {
        self.mergeable = features & bits(&[VIRTIO_NET_F_MRG_RXBUF]) != 0;
    }

    fn reset(&mut self) {
        self.mergeable = false;
        self.waiting.clear();
    }

    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        match ring {
            RECEIVE => self.receive(rings),
            _ => self.send(ring, rings),
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.tap.as_fd())
    }

    fn serve_source(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        self.receive(rings)
    }

    fn state(&self) -> DeviceStateV1 {
        DeviceStateV1::Net(NetStateV1 {
            tap: self.source.clone(),
            mac: self.mac,
            tap_mac: self.tap_mac,
            waiting: self.waiting.clone(),
        })
    }

    fn catch_up(&mut self, state: &DeviceStateV1) -> io::Result<()> {
        match state {
            DeviceStateV1::Net(state) => self.restore(state),
            _ => Ok(()),
        }
    }

    fn lend(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        Ok(vec![(TAP, self.tap.try_clone()?.into())])
    }

    fn findings(&self, carried: bool) -> Vec<Finding> {
        match &self.source {
            TapSource::Descriptor if !carried => vec![Finding::warning(
                "",
                "its tap was passed as a descriptor, which the update does not carry",
                "pass one again: resume with --net fd=N",
            )],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
