//! Connections between a test driver and Unix sockets.

use std::os::unix::net::{UnixListener, UnixStream};

use super::connection::BUFFER;
use super::host::MAX_CONNECTIONS;
use super::packet::{NO_RECEIVE, NO_SEND, Op, Ports};
use super::*;
use crate::devices::virtio::fuzz::seed;
use crate::devices::virtio::testing::{Buffer, Driver, survives_nonsense};

const CID: u64 = 3;

struct Guest {
    dir: tempfile::TempDir,
    vsock: Vsock,
    driver: Driver,
    seen: usize,
}

impl Guest {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vsock = Vsock::open(CID, &dir.path().join("v"), &Ownership::new(true)).unwrap();
        let mut driver = Driver::new(3);
        for _ in 0..14 {
            driver.offer(RECEIVE, &[Buffer::Room(4096)]);
        }
        Self {
            dir,
            vsock,
            driver,
            seen: 0,
        }
    }

    /// Sends a packet, as a driver does, and has it served.
    fn send(&mut self, packet: Packet, data: &[u8]) {
        let packet = Packet {
            len: data.len() as u32,
            buf_alloc: 1 << 20,
            ..packet
        };
        let mut header = packet.encode(CID);
        header[..16].rotate_left(8);
        header[16..24].rotate_left(4);
        let buffers = [Buffer::Says(&header), Buffer::Says(data)];
        let count = if data.is_empty() { 1 } else { 2 };
        self.driver.offer(TRANSMIT, &buffers[..count]);
        self.driver.serve(&mut self.vsock, TRANSMIT).unwrap();
    }

    /// The packets for the guest since the last time.
    fn received(&mut self) -> Vec<(Packet, Vec<u8>)> {
        self.driver.serve(&mut self.vsock, RECEIVE).unwrap();
        let used = self.driver.used(RECEIVE).split_off(self.seen);
        self.seen += used.len();
        let packet = |(head, len): (u32, u32)| {
            let mut bytes = self.driver.bytes(RECEIVE, head as u16, len as usize);
            let data = bytes.split_off(HEADER);
            bytes[..16].rotate_left(8);
            bytes[16..24].rotate_left(4);
            let header = bytes.first_chunk().unwrap();
            (Packet::decode(header, CID).unwrap(), data)
        };
        used.into_iter().map(packet).collect()
    }

    /// The operations of those packets.
    fn ops(&mut self) -> Vec<Op> {
        self.received()
            .iter()
            .map(|(packet, _)| packet.op)
            .collect()
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.dir.path().join(format!("v_{port}"))).unwrap()
    }
}

fn packet(op: Op) -> Packet {
    Packet::new(
        Ports {
            host: 52,
            guest: 1000,
        },
        op,
    )
}

/// A guest that is connected to a program, and the program's end.
fn connected() -> (Guest, UnixStream) {
    let mut guest = Guest::new();
    let listener = guest.listen(52);
    guest.send(packet(Op::Request), &[]);
    assert_eq!(guest.ops(), [Op::Response]);
    let (program, _) = listener.accept().unwrap();
    (guest, program)
}

#[test]
fn a_guest_connects_to_a_program() {
    let (mut guest, mut program) = connected();
    guest.send(packet(Op::Data), b"ping");
    let mut got = [0; 4];
    program.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ping");
    program.write_all(b"pong").unwrap();
    let received = guest.received();
    assert_eq!(received.len(), 1);
    assert_eq!(
        (received[0].0.op, &received[0].1[..]),
        (Op::Data, &b"pong"[..])
    );
    assert_eq!(received[0].0.fwd_cnt, 4);
}

#[test]
fn nobody_behind_a_port_is_a_reset() {
    let mut guest = Guest::new();
    guest.send(packet(Op::Request), &[]);
    assert_eq!(guest.ops(), [Op::Reset]);
    guest.send(packet(Op::Data), b"lost");
    assert_eq!(guest.ops(), [Op::Reset]);
}

#[test]
fn a_program_connects_to_the_guest() {
    let mut guest = Guest::new();
    let mut program = UnixStream::connect(guest.dir.path().join("v")).unwrap();
    program.write_all(b"CONNECT 1000\nand more").unwrap();
    let received = guest.received();
    let ports = received[0].0.ports;
    assert_eq!((received[0].0.op, ports.guest), (Op::Request, 1000));
    guest.send(Packet::new(ports, Op::Response), &[]);
    let hello = format!("OK {}\n", ports.host);
    let mut got = vec![0; hello.len()];
    program.read_exact(&mut got).unwrap();
    assert_eq!(got, hello.as_bytes());
    let received = guest.received();
    assert_eq!(received[0].1, b"and more");
    // The greeting does not come from the guest, so it does not count.
    assert_eq!(received[0].0.fwd_cnt, 0);
}

#[test]
fn a_program_that_does_not_name_a_port_is_sent_away() {
    let mut guest = Guest::new();
    let mut program = UnixStream::connect(guest.dir.path().join("v")).unwrap();
    program.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(guest.ops().is_empty());
    assert!(matches!(program.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn both_sides_can_end_a_connection() {
    let (mut guest, program) = connected();
    drop(program);
    let received = guest.received();
    assert_eq!(received[0].0.op, Op::Shutdown);
    assert_eq!(received[0].0.flags, NO_SEND | NO_RECEIVE);
    guest.send(packet(Op::Reset), &[]);
    assert_eq!((guest.ops(), guest.vsock.host.connections()), (vec![], 0));

    let (mut guest, mut program) = connected();
    guest.send(packet(Op::Data), b"last");
    let shutdown = Packet {
        flags: NO_SEND | NO_RECEIVE,
        ..packet(Op::Shutdown)
    };
    guest.send(shutdown, &[]);
    assert_eq!(guest.ops(), [Op::Reset]);
    let mut got = Vec::new();
    program.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last");
}

#[test]
fn a_guest_gets_no_more_than_it_has_room_for() {
    let (mut guest, mut program) = connected();
    program.write_all(&[1; 1000]).unwrap();
    let room = |buf_alloc, fwd_cnt| Packet {
        buf_alloc,
        fwd_cnt,
        ..packet(Op::CreditUpdate)
    };
    guest.vsock.host.take(&room(300, 0), &[]);
    let got = |guest: &mut Guest| -> usize {
        let received = guest.received();
        received.iter().map(|(_, data)| data.len()).sum()
    };
    assert_eq!(got(&mut guest), 300);
    guest.vsock.host.take(&room(300, 100), &[]);
    assert_eq!(got(&mut guest), 100);
    guest.vsock.host.take(&room(1000, 400), &[]);
    assert_eq!(got(&mut guest), 600);
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_is_cut_off() {
    let (mut guest, _program) = connected();
    // The program does not read: the socket fills up, then the buffer.
    let mut connection_ends = false;
    for _ in 0..40 {
        let data = vec![0; 60_000];
        guest.vsock.host.take(&packet(Op::Data), &data);
        connection_ends |= guest.vsock.host.connections() == 0;
    }
    assert!(connection_ends);
}

#[test]
fn all_connections_together_are_bounded() {
    let mut guest = Guest::new();
    let listener = guest.listen(1);
    listener.set_nonblocking(true).unwrap();
    let mut programs = Vec::new();
    for port in 0..MAX_CONNECTIONS as u32 + 8 {
        let ports = Ports {
            guest: port,
            host: 1,
        };
        let request = Packet::new(ports, Op::Request);
        guest.vsock.host.take(&request, &[]);
        programs.extend(listener.accept());
    }
    assert_eq!(guest.vsock.host.connections(), MAX_CONNECTIONS);
    // Limits descriptors, and buffers for programs that do not read.
    const { assert!(MAX_CONNECTIONS <= 1024 / 4) };
    const { assert!(MAX_CONNECTIONS * BUFFER as usize <= 16 << 20) };
    // A program does not get another one either.
    let program = UnixStream::connect(guest.dir.path().join("v")).unwrap();
    guest.vsock.host.poll();
    program.set_nonblocking(true).unwrap();
    assert_eq!((&program).read(&mut [0]).unwrap(), 0);
}

#[test]
fn after_an_update_the_guest_hears_that_its_connections_are_gone() {
    let (guest, _program) = connected();
    let DeviceStateV1::Vsock(state) = guest.vsock.state() else {
        panic!("not a socket device's state")
    };
    let mut driver = Driver::new(3);
    drop(guest.vsock);
    let mut again = Vsock::reopen(&state, &Ownership::new(true)).unwrap();
    driver.with(|rings| again.serve_restored(rings)).unwrap();
    assert!(driver.used(EVENT).is_empty() && again.reset_due);
    driver.offer(EVENT, &[Buffer::Room(4)]);
    driver.serve(&mut again, EVENT).unwrap();
    assert_eq!(driver.used(EVENT), [(0, 4)]);
    assert!(!again.reset_due);
}

#[test]
fn nonsense_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let mut vsock = Vsock::open(23, &dir.path().join("v"), &Ownership::new(true)).unwrap();
    survives_nonsense(&mut vsock, 3);
}

/// What a guest sends, as its memory has it.
fn sent(op: Op, data: &[u8]) -> Vec<u8> {
    let packet = Packet {
        len: data.len() as u32,
        buf_alloc: 1 << 12,
        ..packet(op)
    };
    let mut bytes = packet.encode(CID);
    bytes[..16].rotate_left(8);
    bytes[16..24].rotate_left(4);
    [&bytes, data].concat()
}

#[test]
fn fuzz_virtio_vsock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let listener = UnixListener::bind(dir.path().join("v_52")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let ops = [
        Op::Request,
        Op::Response,
        Op::Reset,
        Op::Shutdown,
        Op::CreditUpdate,
        Op::CreditRequest,
    ];
    let transmit = TRANSMIT as u8;
    let mut seeds: Vec<_> = ops
        .map(|op| seed(&sent(op, &[]), transmit, 1, &[(0, 5)]))
        .into();
    let connect = seed(&sent(Op::Request, &[]), transmit, 1, &[(0, 5)]);
    let data = seed(&sent(Op::Data, b"some data"), transmit, 1, &[(0, 6)]);
    let receive = seed(&[], RECEIVE as u8, 4, &[(2, 9)]);
    seeds.push([&connect[..], &data[1..], &receive[1..]].concat());
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    crate::fuzz::run("virtio-vsock", &seeds, |input| {
        let vsock = Vsock::open(CID, &path, &Ownership::new(true)).unwrap();
        let mut guest = crate::devices::virtio::fuzz::Guest::new(Box::new(vsock));
        let mut programs = Vec::new();
        guest.run(input, |how| match how % 5 {
            0 => programs.clear(),
            1 => programs.extend(UnixStream::connect(&path)),
            2 => programs.extend(listener.accept().map(|(program, _)| program)),
            kind => {
                for program in &mut programs {
                    program.set_nonblocking(true).unwrap();
                    // It may have been closed, or be full.
                    match kind {
                        3 => drop(program.read(&mut [0; 8192])),
                        _ if how > 128 => drop(program.write(b"CONNECT 1000\n")),
                        _ => drop(program.write(&vec![how; usize::from(how) * 50])),
                    }
                }
            }
        });
        drop(programs);
        while listener.accept().is_ok() {}
    });
}
