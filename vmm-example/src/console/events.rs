//! The console in the event loop: input, and who comes and goes on the socket.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::io::Errno;

use super::terminal::RawTerminal;
use super::{Console, ConsoleError};
use crate::devices::serial::SerialPort;
use crate::socket;
use crate::spec::ConsoleSpec;

/// Where input comes from, opened.
#[derive(Debug)]
pub(crate) enum ConsoleSource {
    Stdin {
        _terminal: Option<RawTerminal>,
    },
    Socket {
        listener: UnixListener,
        path: PathBuf,
        client: Option<UnixStream>,
    },
    /// A file takes output only.
    Nothing,
}

impl ConsoleSource {
    /// Starts to listen, if the console is a socket.
    pub(crate) fn open(spec: &ConsoleSpec) -> Result<Self, ConsoleError> {
        Ok(match spec {
            ConsoleSpec::File(_) => Self::Nothing,
            ConsoleSpec::Stdio => Self::Stdin {
                _terminal: RawTerminal::enter(),
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
                    path: path.clone(),
                    client: None,
                }
            }
        })
    }
}

impl Drop for ConsoleSource {
    fn drop(&mut self) {
        if let Self::Socket { path, .. } = self {
            let _ = fs::remove_file(path);
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
        // Not through Rust's own buffer: what stays in there, no event tells of.
        match rustix::io::read(io::stdin(), &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => drop(ops.remove(Events::empty_raw(fd))),
            Ok(count) => self.serial.input(&buffer[..count]),
        }
    }

    fn on_listener(&mut self, ops: &mut EventOps) {
        // The one before may have gone without our having heard of it yet.
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
        // One client at a time: the next one finds the line closed at once.
        if client.is_some() || new.set_nonblocking(true).is_err() {
            return;
        }
        let interest = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        let (Ok(writer), Ok(())) = (new.try_clone(), ops.add(Events::new(&new, interest))) else {
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

    /// Takes all input there is, and notices when the client has gone.
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
        match &self.source {
            ConsoleSource::Stdin { .. } => self.on_stdin(events.fd(), ops),
            ConsoleSource::Socket { listener, .. } if listener.as_raw_fd() == events.fd() => {
                self.on_listener(ops);
            }
            ConsoleSource::Socket { .. } => self.on_client(events, ops),
            ConsoleSource::Nothing => {}
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let interest = match &self.source {
            ConsoleSource::Stdin { .. } => Events::new(&io::stdin(), EventSet::IN),
            ConsoleSource::Socket { listener, .. } => Events::new(listener, EventSet::IN),
            ConsoleSource::Nothing => return,
        };
        // A standard input that cannot be polled, such as a file, gives no input.
        let _ = ops.add(interest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::PortBus;
    use crate::devices::pm::PowerManagement;
    use crate::event_loop::{self, EndSignal};
    use crate::vcpu::GuestEnd;
    use std::io::Write;
    use std::thread;
    use std::time::{Duration, Instant};
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    const DATA: u16 = 0x3f8;

    /// Reads from the port until `count` bytes came in.
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
        let bus = PortBus::new(port, PowerManagement::default());
        let source = ConsoleSource::open(&spec).unwrap();
        let events = ConsoleEvents::new(source, console.clone(), bus.serial().clone());
        let end = EndSignal::new().unwrap();
        let signal = end.clone();
        let events_loop = thread::spawn(move || event_loop::run(&signal, vec![Box::new(events)]));

        console.output(b"early ");
        let mut first = UnixStream::connect(&path).unwrap();
        first.write_all(&[b'x'; 200]).unwrap();
        assert_eq!(read_port(&bus, 200), [b'x'; 200]);
        assert_eq!(read_client(&mut first, 6), b"early ");
        // A second client finds the line closed; the first one keeps it.
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
