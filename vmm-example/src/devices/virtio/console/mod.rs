//! The console device: a second console (`hvc0`), on a socket or into a file of the host.
//!
//! Crosses an update: its destination; without a kexec also the connected client. Does not cross:
//! output that nobody has read; the serial port is the console that loses nothing.
//!
//! | module | content |
//! |---|---|
//! | `socket` | a client, which nobody waits for: what it does not take is dropped |
//! | `file` | a file, which output is in flight to: see [`Stage`](super::stage::Stage) |

mod file;
mod socket;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{PathBuf, absolute};

use super::counters::Counters;
use super::device::Device;
use super::device_state::{ConsoleDeviceStateV1, ConsoleTarget, DeviceStateV1};
use super::fd_names::{CLIENT, LISTENER};
use super::kind::Kind;
use super::ring::{BURST, Request, Ring, RingError, Rings};
use crate::files;
use crate::socket::{Ownership, listen};
use file::FileEnd;
use socket::SocketEnd;

pub(super) const RINGS: &[u16] = &[64, 64];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// The most bytes of input moved at a time.
const CHUNK: usize = 4096;
/// The most output of one request, and that is in flight to a file. A longer request is cut: no driver has one.
const MAX_OUTPUT: usize = 1 << 20;

#[derive(Debug)]
enum End {
    File(FileEnd),
    Socket(SocketEnd),
}

impl ConsoleDeviceStateV1 {
    /// The socket that it listens on.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        match &self.target {
            ConsoleTarget::Socket(path) => Some(path.clone()),
            ConsoleTarget::File(_) => None,
        }
    }
}

/// Requests whose output the file has not taken yet.
#[derive(Debug)]
struct InFlight {
    heads: Vec<u16>,
    bytes: usize,
    /// Whether the guest has since reset the device or broken its ring.
    is_stale: bool,
}

/// The live device.
#[derive(Debug)]
pub(super) struct ConsoleDevice {
    target: ConsoleTarget,
    end: End,
    in_flight: Option<InFlight>,
}

impl ConsoleDevice {
    pub(super) fn open(target: &ConsoleTarget, ownership: &Ownership) -> io::Result<Self> {
        let (target, end) = match target {
            ConsoleTarget::File(path) => {
                let path = absolute(path)?;
                let end = FileEnd::new(files::output(&path)?)?;
                (ConsoleTarget::File(path), End::File(end))
            }
            ConsoleTarget::Socket(path) => {
                let path = absolute(path)?;
                let end = SocketEnd::new(&path, listen(&path)?, None, ownership)?;
                (ConsoleTarget::Socket(path), End::Socket(end))
            }
        };
        Ok(Self::with(target, end))
    }

    /// Takes over the socket of another process of this host, and its client.
    pub(super) fn inherit(
        target: &ConsoleTarget,
        listener: OwnedFd,
        client: Option<OwnedFd>,
        ownership: &Ownership,
    ) -> io::Result<Self> {
        let end = match target {
            // A file is lent under the same name.
            ConsoleTarget::File(_) => End::File(FileEnd::new(listener.into())?),
            ConsoleTarget::Socket(path) => {
                let client = client.map(UnixStream::from);
                End::Socket(SocketEnd::new(path, listener.into(), client, ownership)?)
            }
        };
        Ok(Self::with(target.clone(), end))
    }

    fn with(target: ConsoleTarget, end: End) -> Self {
        Self {
            target,
            end,
            in_flight: None,
        }
    }

    /// Passes input from the client to the guest, as far as it has space.
    fn receive(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        let End::Socket(socket) = &mut self.end else {
            return Ok(());
        };
        socket.accept();
        let Some(mut ring) = rings.ring(RECEIVE) else {
            return Ok(());
        };
        let mut buffer = [0; CHUNK];
        let mut pushed = false;
        let mut emptied = false;
        for _ in 0..BURST {
            let next = match ring.is_stopped() {
                true => None,
                false => ring.pop_or_ask()?,
            };
            let Some(mut request) = next else {
                emptied = true;
                break;
            };
            let room = request.output.available_bytes().min(CHUNK);
            if room == 0 {
                return Err(RingError::Incomplete);
            }
            let count = socket.read(&mut buffer[..room]);
            if count == 0 {
                ring.unpop();
                emptied = true;
                break;
            }
            let written = request.output.write_all(&buffer[..count]);
            written.map_err(|_| RingError::BrokenChain)?;
            ring.push(&request, count)?;
            counters.bytes(count);
            pushed = true;
        }
        if pushed {
            ring.signal()?;
        }
        if !emptied {
            // Events are edge-triggered: come back for the rest.
            ring.again();
        }
        Ok(())
    }

    /// Passes output from the guest to the host.
    fn send(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        let Some(ring) = rings.ring(TRANSMIT) else {
            return Ok(());
        };
        match &mut self.end {
            End::Socket(socket) => send_to_client(socket, ring, counters),
            End::File(_) if self.in_flight.is_some() => Ok(()),
            End::File(file) => {
                self.in_flight = send_to_file(file, ring, counters)?;
                Ok(())
            }
        }
    }
}

/// `struct virtio_console_config`: no size, one port, no emergency writes.
pub(super) fn config() -> Vec<u8> {
    vec![0; 12]
}

/// Takes output for nobody.
pub(super) fn drop_output(ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
    let counters = rings.counters();
    match rings.ring(ring).filter(|_| ring == TRANSMIT) {
        Some(ring) => ring.serve(|_| {
            counters.error();
            Ok(0)
        }),
        None => Ok(()),
    }
}

/// Sends what the client takes at once.
fn send_to_client(
    socket: &mut SocketEnd,
    ring: Ring<'_, '_>,
    counters: &Counters,
) -> Result<(), RingError> {
    let mut output = Vec::new();
    ring.serve(|request| {
        output.clear();
        take_output(request, &mut output, counters)?;
        match output.is_empty() || socket.write(&output) {
            true => counters.bytes(output.len()),
            false => counters.error(),
        }
        Ok(0)
    })
}

/// Takes as many requests as may be in flight.
fn send_to_file(
    file: &mut FileEnd,
    mut ring: Ring<'_, '_>,
    counters: &Counters,
) -> Result<Option<InFlight>, RingError> {
    let (mut heads, mut output) = (Vec::new(), Vec::new());
    while heads.len() < BURST && !ring.is_stopped() {
        let Some(mut request) = ring.pop_or_ask()? else {
            break;
        };
        let len = request.input.available_bytes().min(MAX_OUTPUT);
        if output.len() + len > MAX_OUTPUT {
            ring.unpop();
            break;
        }
        take_output(&mut request, &mut output, counters)?;
        heads.push(request.head);
    }
    if heads.is_empty() {
        return Ok(None);
    }
    let bytes = output.len();
    file.write(output);
    Ok(Some(InFlight {
        heads,
        bytes,
        is_stale: false,
    }))
}

/// Appends the output of a request.
fn take_output(
    request: &mut Request<'_>,
    to: &mut Vec<u8>,
    counters: &Counters,
) -> Result<(), RingError> {
    let (from, offered) = (to.len(), request.input.available_bytes());
    if offered > MAX_OUTPUT {
        counters.error();
    }
    to.resize(from + offered.min(MAX_OUTPUT), 0);
    let read = request.input.read_exact(&mut to[from..]);
    read.map_err(|_| RingError::BrokenChain)
}

impl Device for ConsoleDevice {
    fn kind(&self) -> Kind {
        Kind::Console
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        RINGS
    }

    fn config(&self) -> Vec<u8> {
        config()
    }

    fn reset(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.is_stale = true;
        }
    }

    fn start(&mut self) -> io::Result<()> {
        match &mut self.end {
            End::File(file) => file.start(),
            End::Socket(_) => Ok(()),
        }
    }

    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        match ring {
            RECEIVE => self.receive(rings),
            _ => self.send(rings),
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(match &self.end {
            End::File(file) => file.event(),
            End::Socket(socket) => socket.event(),
        })
    }

    fn serve_source(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        match self.end {
            End::Socket(_) => self.receive(rings),
            End::File(_) => {
                self.settle(rings, true)?;
                self.send(rings)
            }
        }
    }

    fn settle(&mut self, rings: &mut Rings<'_>, wanted: bool) -> Result<(), RingError> {
        let End::File(file) = &mut self.end else {
            return Ok(());
        };
        let Some(took_all) = file.written() else {
            return Ok(());
        };
        let Some(over) = self.in_flight.take() else {
            return Ok(());
        };
        let counters = rings.counters();
        match took_all {
            true => counters.bytes(over.bytes),
            false => counters.error(),
        }
        let Some(mut ring) = rings.ring(TRANSMIT).filter(|_| wanted && !over.is_stale) else {
            return Ok(());
        };
        over.heads
            .iter()
            .try_for_each(|head| ring.push_head(*head, 0))?;
        ring.signal()
    }

    fn takes_time(&self) -> bool {
        matches!(self.end, End::File(_))
    }

    fn in_flight(&self) -> usize {
        let in_flight = self.in_flight.as_ref();
        in_flight.map_or(0, |in_flight| in_flight.heads.len())
    }

    /// What a regular file has of the guest's output.
    fn unsynced(&self) -> io::Result<Option<File>> {
        match &self.end {
            End::File(file) if file.file().metadata()?.is_file() => {
                file.file().try_clone().map(Some)
            }
            End::File(_) | End::Socket(_) => Ok(None),
        }
    }

    fn lend(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        let (listener, client) = match &self.end {
            End::File(file) => (file.file().try_clone()?.into(), None),
            End::Socket(socket) => socket.lend()?,
        };
        let client = client.map(|client| (CLIENT, client));
        Ok([(LISTENER, listener)].into_iter().chain(client).collect())
    }

    fn state(&self) -> DeviceStateV1 {
        DeviceStateV1::Console(ConsoleDeviceStateV1 {
            target: self.target.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
