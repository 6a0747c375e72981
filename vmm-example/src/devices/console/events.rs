//! The console in the event loop: input, and clients of the socket.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::io::Errno;

use super::modes::TerminalModes;
use super::terminal::RawTerminal;
use super::{Console, ConsoleError};
use crate::devices::serial::SerialPort;
use crate::socket::{self, Ownership, SocketPath};
use crate::spec::ConsoleSpec;

const CLIENT_INTEREST: EventSet = EventSet::from_bits_truncate(
    EventSet::IN.bits() | EventSet::OUT.bits() | EventSet::EDGE_TRIGGERED.bits(),
);

/// Becomes ready when there is space again.
const OUTPUT_INTEREST: EventSet =
    EventSet::from_bits_truncate(EventSet::OUT.bits() | EventSet::EDGE_TRIGGERED.bits());

/// The opened source of input.
#[derive(Debug)]
pub(crate) enum ConsoleSource {
    Stdin {
        terminal: Option<RawTerminal>,
    },
    Socket {
        listener: UnixListener,
        _socket_path: SocketPath,
        client: Option<UnixStream>,
    },
    /// A file only takes output.
    Nothing,
}

impl ConsoleSource {
    /// Starts to listen, if the console is a socket.
    pub(crate) fn open(spec: &ConsoleSpec, ownership: &Ownership) -> Result<Self, ConsoleError> {
        Ok(match spec {
            ConsoleSpec::File(_) => Self::Nothing,
            ConsoleSpec::Stdio => Self::Stdin {
                terminal: RawTerminal::enter(ownership),
            },
            ConsoleSpec::Socket(path) => {
                let listener = socket::listen(path)
                    .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                    .map_err(|source| ConsoleError::Listen {
                        path: path.clone(),
                        source,
                    })?;
                Self::Socket {
                    listener,
                    _socket_path: SocketPath::new(path, ownership),
                    client: None,
                }
            }
        })
    }

    /// Takes over what another process opened.
    pub(crate) fn adopt(
        spec: &ConsoleSpec,
        listener: Option<OwnedFd>,
        terminal: Option<TerminalModes>,
        ownership: &Ownership,
    ) -> Result<Self, ConsoleError> {
        Ok(match (spec, listener) {
            (ConsoleSpec::Stdio, _) => Self::Stdin {
                terminal: terminal.and_then(|modes| RawTerminal::adopt(modes, ownership)),
            },
            (ConsoleSpec::Socket(path), Some(listener)) => Self::Socket {
                listener: listener.into(),
                _socket_path: SocketPath::new(path, ownership),
                client: None,
            },
            (spec, _) => Self::open(spec, ownership)?,
        })
    }

    /// Takes over a client of another process.
    pub(crate) fn adopt_client(&mut self, new: UnixStream) {
        if let Self::Socket { client, .. } = self {
            *client = Some(new);
        }
    }

    /// A duplicate of the listening socket, for another process.
    pub(crate) fn listener(&self) -> Option<OwnedFd> {
        match self {
            Self::Socket { listener, .. } => listener.try_clone().ok().map(OwnedFd::from),
            _ => None,
        }
    }

    /// The terminal's modes before this VMM used it.
    pub(crate) fn terminal(&self) -> Option<TerminalModes> {
        match self {
            Self::Stdin { terminal } => terminal.as_ref().map(RawTerminal::modes),
            _ => None,
        }
    }
}

/// Feeds the serial port from the console.
#[derive(Debug)]
pub(crate) struct ConsoleEvents {
    source: ConsoleSource,
    console: Arc<Console>,
    serial: Arc<SerialPort>,
}

impl ConsoleEvents {
    pub(crate) fn new(
        source: ConsoleSource,
        console: Arc<Console>,
        serial: Arc<SerialPort>,
    ) -> Self {
        Self {
            source,
            console,
            serial,
        }
    }

    fn on_stdin(&mut self, fd: RawFd, ops: &mut EventOps) {
        let mut buffer = [0; 4096];
        // Not through Rust's own buffer: no event reports what stays in there.
        match rustix::io::read(io::stdin(), &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => drop(ops.remove(Events::empty_raw(fd))),
            Ok(count) => self.serial.input(&buffer[..count]),
        }
    }

    fn on_listener(&mut self, ops: &mut EventOps) {
        // The previous client may have gone without an event so far.
        self.read_client(ops);
        let ConsoleSource::Socket {
            listener, client, ..
        } = &mut self.source
        else {
            return;
        };
        let Ok((new, _)) = listener.accept() else {
            return;
        };
        // One client at a time: the next one is disconnected at once.
        if client.is_some() || new.set_nonblocking(true).is_err() {
            return;
        }
        let added = ops.add(Events::new(&new, CLIENT_INTEREST));
        let (Ok(writer), Ok(())) = (new.try_clone(), added) else {
            return;
        };
        *client = Some(new);
        self.console.connect(Some(writer));
    }

    fn on_client(&mut self, events: Events, ops: &mut EventOps) {
        if events.event_set().contains(EventSet::OUT) {
            self.console.flush();
        }
        self.read_client(ops);
    }

    fn serve(&mut self, events: Events, ops: &mut EventOps) {
        match &self.source {
            ConsoleSource::Stdin { .. } if events.fd() == io::stdout().as_raw_fd() => {
                self.console.flush();
            }
            ConsoleSource::Stdin { .. } => self.on_stdin(events.fd(), ops),
            ConsoleSource::Socket { listener, .. } if listener.as_raw_fd() == events.fd() => {
                self.on_listener(ops);
            }
            ConsoleSource::Socket { .. } => self.on_client(events, ops),
            ConsoleSource::Nothing => {}
        }
    }

    /// Reads all available input, and notices if the client has gone.
    fn read_client(&mut self, ops: &mut EventOps) {
        let ConsoleSource::Socket { client: slot, .. } = &mut self.source else {
            return;
        };
        let mut buffer = [0; 4096];
        while let Some(client) = slot {
            match client.read(&mut buffer) {
                Ok(count @ 1..) => self.serial.input(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    let _ = ops.remove(Events::empty(client));
                    *slot = None;
                    self.console.connect(None);
                }
            }
        }
    }
}

impl MutEventSubscriber for ConsoleEvents {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let console = self.console.clone();
        console.gate().pass(|| self.serve(events, ops));
    }

    fn init(&mut self, ops: &mut EventOps) {
        let interest = match &self.source {
            ConsoleSource::Stdin { .. } => Events::new(&io::stdin(), EventSet::IN),
            ConsoleSource::Socket { listener, .. } => Events::new(listener, EventSet::IN),
            ConsoleSource::Nothing => return,
        };
        // A standard input that cannot be polled, such as a file, provides no input.
        let _ = ops.add(interest);
        if let ConsoleSource::Stdin { .. } = &self.source {
            // A standard output that cannot be polled takes everything at once.
            let _ = ops.add(Events::new(&io::stdout(), OUTPUT_INTEREST));
        }
        if let ConsoleSource::Socket {
            client: Some(client),
            ..
        } = &self.source
        {
            let _ = ops.add(Events::new(client, CLIENT_INTEREST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::pm::PowerManagement;
    use crate::devices::ports::PortBus;
    use crate::guest::vcpu::GuestEnd;
    use crate::service::event_loop::{self, EndSignal};
    use std::io::Write;
    use std::thread;
    use std::time::{Duration, Instant};
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    const DATA: u16 = 0x3f8;

    /// Reads from the port until `count` bytes have arrived.
    fn read_port(bus: &PortBus, count: usize) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut got = Vec::new();
        while got.len() < count && Instant::now() < deadline {
            let mut status = [0];
            bus.read(DATA + 5, &mut status);
            if status[0] & 1 == 0 {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let mut byte = [0];
            bus.read(DATA, &mut byte);
            got.extend(byte);
        }
        got
    }

    fn read_client(client: &mut UnixStream, count: usize) -> Vec<u8> {
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut got = vec![0; count];
        client.read_exact(&mut got).unwrap();
        got
    }

    #[test]
    fn clients_come_and_go_and_nothing_said_meanwhile_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let spec = ConsoleSpec::Socket(path.clone());
        let console = Arc::new(Console::open(&spec).unwrap());
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let port = SerialPort::new(irq, console.clone());
        let bus = PortBus::new(port, PowerManagement::unwired());
        let source = ConsoleSource::open(&spec, &Ownership::new(true)).unwrap();
        let events = ConsoleEvents::new(source, console.clone(), bus.serial().clone());
        let end = EndSignal::new().unwrap();
        let signal = end.clone();
        let events_loop =
            thread::spawn(move || event_loop::run(&signal, vec![Box::new(events)], Some));

        console.output(b"early ");
        let mut first = UnixStream::connect(&path).unwrap();
        first.write_all(&[b'x'; 200]).unwrap();
        assert_eq!(read_port(&bus, 200), [b'x'; 200]);
        assert_eq!(read_client(&mut first, 6), b"early ");
        // A second client is disconnected; the first one stays.
        let mut second = UnixStream::connect(&path).unwrap();
        assert_eq!(second.read(&mut [0; 1]).unwrap(), 0);
        console.output(b"on");
        assert_eq!(read_client(&mut first, 2), b"on");
        drop(first);
        let mut third = UnixStream::connect(&path).unwrap();
        third.write_all(b"y").unwrap();
        assert_eq!(read_port(&bus, 1), b"y");
        console.output(b"late");
        assert_eq!(read_client(&mut third, 4), b"late");

        end.send(GuestEnd::Stopped);
        assert_eq!(events_loop.join().unwrap().unwrap(), GuestEnd::Stopped);
        assert!(!path.exists());
    }
}
