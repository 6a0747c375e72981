//! Frames through the rings of a test driver; a packet socket stands in for the tap.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use vmm_fdbox::Deadline;

use super::*;
use crate::devices::virtio::fuzz::{Guest, seed};
use crate::devices::virtio::testing::{Buffer, Driver, live, survives_nonsense};

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const SEND: usize = 1;

/// A device, and the other end of its tap.
fn net(mergeable: bool) -> (Net, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let tap = File::from(OwnedFd::from(ours));
    let mut net = Net::with(tap, TapSource::Name("tap0".into()), MAC);
    net.mergeable = mergeable;
    (net, theirs)
}

/// A frame in the format of a tap, header first.
fn frame(bytes: &[u8]) -> Vec<u8> {
    [&[0; HEADER], bytes].concat()
}

#[test]
fn what_the_guest_sends_reaches_the_tap_without_its_header() {
    let (mut net, tap) = net(false);
    let mut driver = Driver::new(2);
    let header = [0xff; HEADER];
    driver.offer(SEND, &[Buffer::Says(&header), Buffer::Says(b"a frame")]);
    driver.serve(&mut net, SEND).unwrap();
    let mut got = [0; 64];
    let len = tap.recv(&mut got).unwrap();
    assert_eq!(&got[..len], frame(b"a frame"));
    assert_eq!(driver.used(SEND), [(0, 0)]);
}

/// While a disk drains, the guest's network must not stand still: its driver gives up after seconds.
#[test]
fn a_network_works_until_it_is_parked() {
    let (net, tap) = net(false);
    let mut driver = Driver::new(2);
    let device = live("net0", Box::new(net), &driver);
    let mut sent = |bytes: &[u8]| {
        driver.offer(SEND, &[Buffer::Says(&frame(bytes))]);
        device.on_kick(SEND);
        tap.recv(&mut [0; 64]).is_ok()
    };
    device.quiesce();
    device
        .drain(Deadline::within(Duration::ZERO))
        .expect("nothing is in flight");
    assert!(sent(b"while others drain"));
    device.park();
    assert!(!sent(b"when it is parked"));
    device.unpark();
    device.on_kick(SEND);
    assert!(tap.recv(&mut [0; 64]).is_ok(), "it was kept in the ring");
}

#[test]
fn frames_that_cannot_be_are_dropped() {
    let (mut net, tap) = net(false);
    let mut driver = Driver::new(2);
    driver.offer(SEND, &[Buffer::Says(&[0; HEADER])]);
    driver.offer(SEND, &[Buffer::Says(&[0; 3])]);
    driver.serve(&mut net, SEND).unwrap();
    assert_eq!(driver.used(SEND).len(), 2);
    assert_eq!(driver.interrupt.counters.read("net0").errors, 2);
    assert!(tap.recv(&mut [0; 8]).is_err());
}

#[test]
fn what_the_tap_gives_reaches_the_guest() {
    let (mut net, tap) = net(false);
    let mut driver = Driver::new(2);
    driver.offer(RECEIVE, &[Buffer::Room(1600)]);
    tap.send(&frame(b"hello")).unwrap();
    driver.serve(&mut net, RECEIVE).unwrap();
    assert_eq!(driver.used(RECEIVE), [(0, 17)]);
    let got = driver.bytes(RECEIVE, 0, 17);
    assert_eq!((&got[10..12], &got[12..]), (&[1, 0][..], &b"hello"[..]));
}

#[test]
fn a_long_frame_goes_over_several_buffers() {
    let (mut net, tap) = net(true);
    let mut driver = Driver::new(2);
    for _ in 0..3 {
        driver.offer(RECEIVE, &[Buffer::Room(64)]);
    }
    tap.send(&frame(&[7; 100])).unwrap();
    driver.serve(&mut net, RECEIVE).unwrap();
    assert_eq!(driver.used(RECEIVE), [(0, 64), (1, 48)]);
    assert_eq!(driver.bytes(RECEIVE, 0, 12)[10..], [2, 0]);
}

#[test]
fn a_frame_waits_for_room_and_crosses_an_update() {
    let (mut old, tap) = net(true);
    let mut driver = Driver::new(2);
    driver.offer(RECEIVE, &[Buffer::Room(64)]);
    tap.send(&frame(&[7; 100])).unwrap();
    driver.serve(&mut old, RECEIVE).unwrap();
    assert!(driver.used(RECEIVE).is_empty());
    let DeviceStateV1::Net(state) = old.state() else {
        panic!("not a network's state")
    };
    assert_eq!(state.waiting, frame(&[7; 100]));

    let (mut new, _tap) = net(true);
    new.waiting = state.waiting;
    driver.offer(RECEIVE, &[Buffer::Room(64)]);
    driver.serve(&mut new, RECEIVE).unwrap();
    assert_eq!(driver.used(RECEIVE), [(0, 64), (1, 48)]);
    assert!(new.waiting.is_empty());
}

#[test]
fn without_mergeable_buffers_a_frame_that_is_too_long_is_dropped() {
    let (mut net, tap) = net(false);
    let mut driver = Driver::new(2);
    driver.offer(RECEIVE, &[Buffer::Room(64)]);
    tap.send(&frame(&[7; 100])).unwrap();
    driver.serve(&mut net, RECEIVE).unwrap();
    assert_eq!(driver.used(RECEIVE), [(0, 0)]);
    assert_eq!(driver.interrupt.counters.read("net0").errors, 1);
}

#[test]
fn a_buffer_without_room_for_a_header_breaks_the_device() {
    let (mut net, tap) = net(true);
    let mut driver = Driver::new(2);
    driver.offer(RECEIVE, &[Buffer::Room(8)]);
    tap.send(&frame(b"x")).unwrap();
    assert!(driver.serve(&mut net, RECEIVE).is_err());
}

#[test]
fn a_tap_that_was_handed_in_is_asked_for_again() {
    let state = NetStateV1 {
        tap: TapSource::Descriptor,
        mac: MAC,
        tap_mac: None,
        waiting: Vec::new(),
    };
    let error = Net::reopen(&state, None).unwrap_err().to_string();
    assert!(error.contains("--net fd=N"), "{error}");
    let (mut net, _tap) = net(false);
    assert!(net.findings(false).is_empty());
    net.source = TapSource::Descriptor;
    assert!(!net.findings(false)[0].is_blocker());
}

#[test]
fn nonsense_is_survived() {
    let (mut net, tap) = net(true);
    for _ in 0..8 {
        tap.send(&frame(&[1; 1000])).unwrap();
    }
    survives_nonsense(&mut net, 2);
}

#[test]
fn random_addresses_are_ones_own() {
    let mac = random_mac().unwrap();
    assert_eq!(mac[0] & 3, 2);
}

#[test]
fn fuzz_virtio_net() {
    let seeds = [
        seed(&[0; 40], SEND as u8, 1, &[(0, 6)]),
        seed(&[], RECEIVE as u8, 4, &[(2, 9)]),
        seed(&[], RECEIVE as u8, 8, &[(2, 6), (3, 6)]),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    crate::fuzz::run("virtio-net", &seeds, |input| {
        let (net, tap) = net(input.first().is_some_and(|first| first % 3 == 0));
        let mut guest = Guest::new(Box::new(net));
        guest.run(input, |how| {
            // The tap may be full, or empty.
            let _ = match how % 2 {
                0 => tap.recv(&mut [0; 2048]),
                _ => tap.send(&frame(&vec![how; usize::from(how) * 8])),
            };
        });
    });
}
