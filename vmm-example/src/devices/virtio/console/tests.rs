use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;
use vmm_fdbox::Deadline;

use super::*;
use crate::devices::virtio::VirtioError;
use crate::devices::virtio::fuzz::{Guest, seed};
use crate::devices::virtio::live::LiveDevice;
use crate::devices::virtio::testing::{Buffer, Driver, live, status, survives_nonsense};

/// More than any pipe holds.
const MUCH: usize = MAX_OUTPUT;

fn on_file(file: impl Into<OwnedFd>) -> ConsoleDevice {
    let target = ConsoleTarget::File("log".into());
    ConsoleDevice::inherit(&target, file.into(), None, &Ownership::new(true)).unwrap()
}

/// Does what the device's thread does when its event is there, until nothing is in flight.
fn settle(device: &LiveDevice) {
    while device.with_device(|console| console.in_flight()) > 0 {
        // A signal is no reason.
        let _ = device.with_device(|console| {
            let event = console.source().unwrap();
            poll(&mut [PollFd::new(&event, PollFlags::IN)], None)
        });
        device.on_source();
    }
}

#[test]
fn a_client_takes_and_gives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hvc");
    let target = ConsoleTarget::Socket(path.clone());
    let mut console = ConsoleDevice::open(&target, &Ownership::new(true)).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"typed").unwrap();
    let mut driver = Driver::new(2);
    driver.offer(0, &[Buffer::Room(64)]);
    driver.serve(&mut console, 0).unwrap();
    assert_eq!(driver.bytes(0, 0, 5), b"typed");
    driver.offer(1, &[Buffer::Says(b"data")]);
    driver.serve(&mut console, 1).unwrap();
    let mut got = [0; 4];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"data");
    survives_nonsense(&mut console, 2);
}

#[test]
fn a_file_takes_output_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hvc");
    let target = ConsoleTarget::File(path.clone());
    let console = ConsoleDevice::open(&target, &Ownership::new(true)).unwrap();
    let mut driver = Driver::new(2);
    let device = live("console0", Box::new(console), &driver);
    for data in [b"one ", b"two ", b"six "] {
        driver.offer(1, &[Buffer::Says(data)]);
        device.on_kick(1);
    }
    settle(&device);
    assert_eq!(driver.used(1).len(), 3);
    assert_eq!(std::fs::read(&path).unwrap(), b"one two six ");
    let unsynced = device.with_device(|console| console.unsynced());
    assert!(unsynced.unwrap().is_some(), "what a kexec would lose");
}

#[test]
fn output_that_a_file_does_not_take_is_in_flight() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut driver = Driver::new(2);
    let device = live("console0", Box::new(on_file(writer)), &driver);
    // Many times the same buffer.
    let buffers = [Buffer::Says(&[7; 0x8000]); MUCH / 0x8000];
    driver.offer(1, &buffers);
    device.on_kick(1);
    driver.offer(1, &[Buffer::Says(b"more")]);
    device.on_kick(1);
    // Whoever wants the device gets it.
    assert_eq!(status(&device), 15);
    device.quiesce();
    let busy = device.drain(Deadline::within(Duration::ZERO)).unwrap_err();
    let is_one = matches!(busy, VirtioError::Busy { requests: 1, .. });
    assert!(
        is_one && busy.to_string().starts_with("console0 has"),
        "{busy}"
    );
    let read = std::thread::spawn(move || {
        let mut got = vec![0; MUCH];
        reader.read_exact(&mut got).unwrap();
        (got, reader)
    });
    settle(&device);
    device.drain(Deadline::within(Duration::ZERO)).unwrap();
    device.park();
    let (got, mut reader) = read.join().unwrap();
    assert!(got.iter().all(|byte| *byte == 7));
    // Nothing more was taken: the rest is the ring's.
    assert_eq!(driver.used(1).len(), 1);
    assert_eq!(device.save().transport.queues[1].next_avail, 1);
    device.unpark();
    device.on_kick(1);
    settle(&device);
    let mut more = [0; 4];
    reader.read_exact(&mut more).unwrap();
    assert_eq!((&more, driver.used(1).len()), (b"more", 2));
}

#[test]
fn what_was_in_flight_at_a_reset_is_answered_to_nobody() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut driver = Driver::new(2);
    let device = live("console0", Box::new(on_file(writer)), &driver);
    driver.offer(1, &[Buffer::Says(&[7; 0x8000]); MUCH / 0x8000]);
    device.on_kick(1);
    device.write(VIRTIO_MMIO_STATUS, &[0; 4]);
    assert_eq!(status(&device), 0);
    let mut got = vec![0; MUCH];
    reader.read_exact(&mut got).unwrap();
    settle(&device);
    assert!(driver.used(1).is_empty());
}

#[test]
fn a_request_is_cut_where_no_driver_has_one() {
    let mut driver = Driver::new(2);
    let file = tempfile::tempfile().unwrap();
    let device = live(
        "console0",
        Box::new(on_file(file.try_clone().unwrap())),
        &driver,
    );
    driver.offer(1, &[Buffer::Says(&[7; 0x8000]); MUCH / 0x8000 + 1]);
    device.on_kick(1);
    settle(&device);
    assert_eq!(driver.used(1).len(), 1);
    assert_eq!(file.metadata().unwrap().len(), MUCH as u64);
    assert_eq!(device.counts().errors, 1);
}

#[test]
fn nonsense_does_not_reach_a_file() {
    let null = File::options().write(true).open("/dev/null").unwrap();
    let mut console = on_file(null);
    console.start().unwrap();
    survives_nonsense(&mut console, 2);
}

#[test]
fn fuzz_virtio_console() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hvc");
    let target = ConsoleTarget::Socket(path.clone());
    let seeds = [
        seed(b"to the host", 1, 1, &[(0, 3)]),
        seed(&[], 0, 4, &[(2, 6)]),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    crate::fuzz::run("virtio-console", &seeds, |input| {
        let console = ConsoleDevice::open(&target, &Ownership::new(true)).unwrap();
        let mut guest = Guest::new(Box::new(console));
        let mut client = None;
        guest.run(input, |how| {
            let stream = client.get_or_insert_with(|| {
                let stream = UnixStream::connect(&path).unwrap();
                stream.set_nonblocking(true).unwrap();
                stream
            });
            match how % 4 {
                0 => client = None,
                1 => drop(stream.read(&mut [0; 4096])),
                _ => drop(stream.write(&vec![how; usize::from(how)])),
            }
        });
    });
}
