//! The console in the event loop: input, and clients of the socket.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::io::Errno;

use super::{Console, ConsoleSource};
use crate::devices::serial::SerialPort;

const CLIENT_INTEREST: EventSet = EventSet::from_bits_truncate(
    EventSet::IN.bits() | EventSet::OUT.bits() | EventSet::EDGE_TRIGGERED.bits(),
);

/// Becomes ready when there is space again.
const OUTPUT_INTEREST: EventSet =
    EventSet::from_bits_truncate(EventSet::OUT.bits() | EventSet::EDGE_TRIGGERED.bits());

/// Feeds the serial port from the console.
#[derive(Debug)]
pub(crate) struct ConsoleEvents {
    source: ConsoleSource,
    console: Arc<Console>,
    serial: Arc<SerialPort>,
    /// The gate was shut: nothing of the source is watched.
    waits: bool,
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
            waits: false,
        }
    }

    /// What is watched: where input and clients come from, and where output goes.
    fn watched(&self) -> Vec<Events> {
        match &self.source {
            ConsoleSource::Stdin { .. } => vec![
                Events::new(&io::stdin(), EventSet::IN),
                Events::new(&io::stdout(), OUTPUT_INTEREST),
            ],
            ConsoleSource::Socket {
                listener, client, ..
            } => {
                let client = client.iter();
                let client = client.map(|client| Events::new(client, CLIENT_INTEREST));
                let listener = Events::new(listener, EventSet::IN);
                std::iter::once(listener).chain(client).collect()
            }
            ConsoleSource::Nothing => vec![],
        }
    }

    /// A standard input that cannot be polled, such as a file, provides no input, and a standard
    /// output that cannot be polled takes everything at once.
    fn watch(&self, ops: &mut EventOps) {
        for events in self.watched() {
            let _ = ops.add(events);
        }
    }

    /// Until the gate opens. What happens in between is reported when they are watched again.
    fn look_away(&mut self, ops: &mut EventOps) {
        for events in self.watched() {
            // What cannot be polled is not watched.
            let _ = ops.remove(events);
        }
        self.waits = true;
    }

    fn on_opened(&mut self, ops: &mut EventOps) {
        // Nothing else reads it, and there is nothing in it but the wake-up.
        let _ = self.console.gate().opened().read();
        if std::mem::take(&mut self.waits) {
            self.watch(ops);
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
        if events.fd() == console.gate().opened().as_raw_fd() {
            return self.on_opened(ops);
        }
        if !console.gate().pass(|| self.serve(events, ops)) {
            self.look_away(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(self.console.gate().opened(), EventSet::IN));
        self.watch(ops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::pm::PowerManagement;
    use crate::devices::ports::PortBus;
    use crate::guest::vcpu::GuestEnd;
    use crate::service::event_loop::{self, EndSignal};
    use crate::socket::Ownership;
    use crate::spec::ConsoleSpec;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::thread;
    use std::time::{Duration, Instant};
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    const DATA: u16 = 0x3f8;

    fn has_input(bus: &PortBus) -> bool {
        let mut status = [0];
        bus.read(DATA + 5, &mut status);
        status[0] & 1 != 0
    }

    /// Reads from the port until `count` bytes have arrived.
    fn read_port(bus: &PortBus, count: usize) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut got = Vec::new();
        while got.len() < count && Instant::now() < deadline {
            if !has_input(bus) {
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

    /// A console in its event loop.
    struct Looped {
        path: PathBuf,
        console: Arc<Console>,
        bus: PortBus,
        end: EndSignal,
        thread: thread::JoinHandle<GuestEnd>,
        _dir: tempfile::TempDir,
    }

    impl Looped {
        fn start() -> Self {
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
            let thread = thread::spawn(move || {
                event_loop::run(&signal, vec![Box::new(events)], Some).unwrap()
            });
            Self {
                path,
                console,
                bus,
                end,
                thread,
                _dir: dir,
            }
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(&self.path).unwrap()
        }

        /// Ends the loop, within a time.
        fn end(self) {
            self.end.send(GuestEnd::Stopped);
            let deadline = Instant::now() + Duration::from_secs(10);
            while !self.thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            assert!(self.thread.is_finished(), "the loop does not end");
            assert_eq!(self.thread.join().unwrap(), GuestEnd::Stopped);
            assert!(!self.path.exists());
        }
    }

    #[test]
    fn clients_come_and_go_and_nothing_said_meanwhile_is_lost() {
        let looped = Looped::start();
        let (console, bus) = (&looped.console, &looped.bus);
        console.output(b"early ");
        let mut first = looped.connect();
        first.write_all(&[b'x'; 200]).unwrap();
        assert_eq!(read_port(bus, 200), [b'x'; 200]);
        assert_eq!(read_client(&mut first, 6), b"early ");
        // A second client is disconnected; the first one stays.
        let mut second = looped.connect();
        assert_eq!(second.read(&mut [0; 1]).unwrap(), 0);
        console.output(b"on");
        assert_eq!(read_client(&mut first, 2), b"on");
        drop(first);
        let mut third = looped.connect();
        third.write_all(b"y").unwrap();
        assert_eq!(read_port(bus, 1), b"y");
        console.output(b"late");
        assert_eq!(read_client(&mut third, 4), b"late");
        looped.end();
    }

    #[test]
    fn input_waits_for_a_guest_that_is_saved_and_holds_up_nothing_else() {
        let looped = Looped::start();
        let (gate, bus) = (looped.console.gate(), &looped.bus);
        let mut client = looped.connect();
        client.write_all(b"1").unwrap();
        assert_eq!(read_port(bus, 1), b"1");
        gate.shut();
        client.write_all(b"2").unwrap();
        drop(client);
        let mut client = looped.connect();
        client.write_all(b"3").unwrap();
        gate.open();
        assert_eq!(read_port(bus, 2), b"23");

        gate.shut();
        client.write_all(b"4").unwrap();
        assert!(!has_input(bus), "input passed a shut gate");
        // This VMM ends without the gate having been opened.
        looped.end();
    }
}
