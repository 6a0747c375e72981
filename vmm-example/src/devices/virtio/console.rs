//! The console device: a second console (`hvc0`), on a socket or into a file of the host.
//!
//! Crosses an update: its destination; without a kexec also the connected client. Does not cross:
//! output that nobody has read; the serial port is the console that loses nothing.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf, absolute};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::device::Device;
use super::device_state::{ConsoleDeviceStateV1, ConsoleTarget, DeviceStateV1};
use super::fd_names::{CLIENT, LISTENER};
use super::kind::Kind;
use super::ring::{BURST, RingError, Rings};
use crate::files;
use crate::socket::{self, Ownership, SocketPath};

pub(super) const RINGS: &[u16] = &[64, 64];
const RECEIVE: usize = 0;
/// The maximum number of bytes moved at a time.
const CHUNK: usize = 4096;

#[derive(Debug)]
enum End {
    File(File),
    Socket {
        /// Removed on drop, if it is ours.
        _socket_path: SocketPath,
        listener: UnixListener,
        client: Option<UnixStream>,
        epoll: OwnedFd,
    },
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

/// The live device.
#[derive(Debug)]
pub(super) struct ConsoleDevice {
    target: ConsoleTarget,
    end: End,
}

impl ConsoleDevice {
    pub(super) fn open(target: &ConsoleTarget, ownership: &Ownership) -> io::Result<Self> {
        let (target, end) = match target {
            ConsoleTarget::File(path) => {
                let path = absolute(path)?;
                let file = files::output(&path)?;
                (ConsoleTarget::File(path), End::File(file))
            }
            ConsoleTarget::Socket(path) => {
                let path = absolute(path)?;
                let end = End::socket(&path, socket::listen(&path)?, None, ownership)?;
                (ConsoleTarget::Socket(path), end)
            }
        };
        Ok(Self { target, end })
    }

    /// Takes over the socket of another process of this host, and its client.
    pub(super) fn inherit(
        target: &ConsoleTarget,
        listener: OwnedFd,
        client: Option<OwnedFd>,
        ownership: &Ownership,
    ) -> io::Result<Self> {
        let ConsoleTarget::Socket(path) = target else {
            // A file is lent under the same name.
            return Ok(Self {
                target: target.clone(),
                end: End::File(listener.into()),
            });
        };
        let client = client.map(UnixStream::from);
        Ok(Self {
            target: target.clone(),
            end: End::socket(path, listener.into(), client, ownership)?,
        })
    }

    /// Passes input from the client to the guest, as far as it has space.
    fn receive(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        self.end.accept();
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
            let count = self.end.read(&mut buffer[..room]);
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
    fn send(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        let counters = rings.counters();
        let Some(ring) = rings.ring(ring) else {
            return Ok(());
        };
        let mut buffer = [0; CHUNK];
        ring.serve(|request| {
            while request.input.available_bytes() > 0 {
                let count = request.input.read(&mut buffer);
                let count = count.map_err(|_| RingError::BrokenChain)?;
                match self.end.write(&buffer[..count]) {
                    true => counters.bytes(count),
                    false => counters.error(),
                }
            }
            Ok(0)
        })
    }
}

impl End {
    fn socket(
        path: &Path,
        listener: UnixListener,
        client: Option<UnixStream>,
        ownership: &Ownership,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &listener, EventData::new_u64(0), flags)?;
        if let Some(client) = &client {
            epoll::add(&epoll, client, EventData::new_u64(1), flags)?;
        }
        Ok(Self::Socket {
            _socket_path: SocketPath::new(path, ownership),
            listener,
            client,
            epoll,
        })
    }

    /// Connects a waiting client, if the previous one has gone.
    fn accept(&mut self) {
        let Self::Socket {
            listener,
            client,
            epoll,
            ..
        } = self
        else {
            return;
        };
        // Events of both only serve to wake the thread: all of them are consumed.
        let mut events = [const {
            epoll::Event {
                flags: EventFlags::empty(),
                data: EventData::new_u64(0),
            }
        }; 2];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let _ = epoll::wait(&*epoll, &mut events, Some(&now));
        while client.is_none() {
            let Ok((new, _)) = listener.accept() else {
                return;
            };
            let flags = EventFlags::IN | EventFlags::ET;
            let watched = epoll::add(&*epoll, &new, EventData::new_u64(1), flags);
            if watched.is_ok() && new.set_nonblocking(true).is_ok() {
                *client = Some(new);
            }
        }
    }

    /// Reads from the client; 0 if there is nothing now.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        loop {
            let Self::Socket { client: slot, .. } = self else {
                return 0;
            };
            let Some(client) = slot else {
                return 0;
            };
            match client.read(buffer) {
                Ok(count @ 1..) => return count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return 0,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    *slot = None;
                    self.accept();
                }
            }
        }
    }

    /// Returns false if bytes were dropped: nobody is connected, or the client does not read.
    fn write(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::File(file) => file.write_all(bytes).is_ok(),
            Self::Socket {
                client: Some(client),
                ..
            } => client.write_all(bytes).is_ok(),
            Self::Socket { client: None, .. } => false,
        }
    }
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

    /// `struct virtio_console_config`: no size, one port, no emergency writes.
    fn config(&self) -> Vec<u8> {
        vec![0; 12]
    }

    fn serve(&mut self, ring: usize, rings: &mut Rings<'_>) -> Result<(), RingError> {
        match ring {
            RECEIVE => self.receive(rings),
            _ => self.send(ring, rings),
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        match &self.end {
            End::File(_) => None,
            End::Socket { epoll, .. } => Some(epoll.as_fd()),
        }
    }

    fn serve_source(&mut self, rings: &mut Rings<'_>) -> Result<(), RingError> {
        self.receive(rings)
    }

    fn lend(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        let (listener, client) = match &self.end {
            End::File(file) => return Ok(vec![(LISTENER, file.try_clone()?.into())]),
            End::Socket {
                listener, client, ..
            } => (listener, client),
        };
        let mut lent = vec![(LISTENER, listener.try_clone()?.into())];
        if let Some(client) = client {
            lent.push((CLIENT, client.try_clone()?.into()));
        }
        Ok(lent)
    }

    fn state(&self) -> DeviceStateV1 {
        DeviceStateV1::Console(ConsoleDeviceStateV1 {
            target: self.target.clone(),
        })
    }
}
