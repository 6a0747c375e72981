//! Devices of a guest in a lifeboat, and when it is home.

use std::fs;
use std::time::Duration;

use vmm_fdbox::Deadline;

use super::super::device::Device;
use super::super::device_state::{
    ConsoleDeviceStateV1, ConsoleTarget, DeviceStateV1, NetStateV1, TapSource, VsockStateV1,
};
use super::super::mmio::TRANSPORT_FEATURES;
use super::super::rest::Resting;
use super::super::spec::{DeviceSpecs, DiskSpec, HvcSpec, VsockSpec};
use super::super::testing::{self, Buffer, Driver};
use super::super::{VirtioError, at_rest, catch_up, net, open, reopen};
use super::*;
use crate::socket::Ownership;

/// Devices of all kinds but a network card, for which there would have to be a tap.
fn specs(dir: &tempfile::TempDir, readonly: bool) -> DeviceSpecs {
    let [image, hvc, vsock] = ["image", "hvc", "vsock"].map(|name| dir.path().join(name));
    fs::write(&image, [7; 4096]).unwrap();
    DeviceSpecs {
        disks: vec![DiskSpec {
            path: image,
            readonly,
            ..DiskSpec::default()
        }],
        console: Some(HvcSpec(ConsoleTarget::Socket(hvc))),
        rng: true,
        vsock: Some(VsockSpec {
            cid: 3,
            socket: vsock,
        }),
        ..DeviceSpecs::default()
    }
}

fn states(devices: &[Opened]) -> Vec<VirtioStateV1> {
    let state = |opened: &Opened| VirtioStateV1 {
        slot: opened.slot.index(),
        transport: Transport::new(
            opened.device.kind(),
            opened.device.features(),
            opened.device.queue_sizes(),
        )
        .unwrap()
        .state(0),
        device: opened.device.state(),
    };
    devices.iter().map(state).collect()
}

fn network(waiting: &[u8]) -> DeviceStateV1 {
    DeviceStateV1::Net(NetStateV1 {
        tap: TapSource::Name("tap0".into()),
        mac: [2, 1, 2, 3, 4, 5],
        tap_mac: None,
        waiting: waiting.into(),
    })
}

#[test]
fn a_driver_finds_the_same_device_in_the_lifeboat() {
    for readonly in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(&specs(&dir, readonly), &Ownership::new(true)).unwrap();
        let saved = states(&opened);
        let resting = at_rest(&saved).unwrap();
        for (own, there) in opened.iter().zip(&resting) {
            assert_eq!(own.layout(), there.layout());
            let (own, there) = (own.device.as_ref(), there.device.as_ref());
            assert_eq!(own.kind(), there.kind());
            assert_eq!(own.config(), there.config(), "{}", own.kind());
            assert_eq!(own.queue_sizes(), there.queue_sizes());
            let [own_features, there_features] =
                [own, there].map(|device| device.features() | TRANSPORT_FEATURES);
            assert_eq!(own_features, there_features, "{}", own.kind());
            assert_eq!(own.state(), there.state());
        }
    }
    let card = Resting::new(network(&[]));
    assert_eq!(card.config(), [2, 1, 2, 3, 4, 5]);
    assert_eq!(card.features(), net::FEATURES | TRANSPORT_FEATURES);
    assert_eq!(card.queue_sizes(), net::RINGS);
}

#[test]
fn requests_wait_until_the_guest_is_home() {
    let dir = tempfile::tempdir().unwrap();
    let specs = DeviceSpecs {
        disks: specs(&dir, false).disks,
        ..DeviceSpecs::default()
    };
    let first = open(&specs, &Ownership::new(true)).unwrap();
    let outline = states(&first);
    drop(first);
    let mut resting = at_rest(&outline).unwrap();
    let mut driver = Driver::new(1);
    let in_boat = testing::live("blk0", resting.remove(0).device, &driver);
    // Reads the first sector.
    let (header, data) = (Buffer::Says(&[0; 16]), Buffer::Room(512));
    driver.offer(0, &[header, data, Buffer::Room(1)]);
    in_boat.on_kick(0);
    in_boat.quiesce();
    in_boat.drain(Deadline::within(Duration::ZERO)).unwrap();
    in_boat.park();
    assert!(driver.used(0).is_empty());

    let state = in_boat.save();
    let waiting = reopen(&outline, &[], &Ownership::new(true)).unwrap();
    let mut home = catch_up(waiting, &[state]).unwrap();
    let opened = home.remove(0);
    let PreparedSlot { line, kicks, .. } = prepared(&opened);
    let at_home =
        LiveDevice::new("blk0".into(), opened, driver.memory.clone(), line, kicks).unwrap();
    at_home.unpark();
    at_home.on_kick(0);
    while driver.used(0).is_empty() {
        at_home.on_source();
    }
    assert_eq!(driver.used(0), [(0, 513)]);
    assert_eq!(driver.bytes(0, 1, 512), [7; 512]);
}

#[test]
fn only_a_console_takes_what_it_is_given() {
    let target = ConsoleTarget::File("/nowhere".into());
    let mut console = Resting::new(DeviceStateV1::Console(ConsoleDeviceStateV1 { target }));
    let mut driver = Driver::new(2);
    driver.offer(0, &[Buffer::Room(64)]);
    driver.offer(1, &[Buffer::Says(b"a message of the kernel")]);
    driver.serve(&mut console, 0).unwrap();
    driver.serve(&mut console, 1).unwrap();
    assert!(driver.used(0).is_empty());
    assert_eq!(driver.used(1), [(0, 0)]);

    let mut card = Resting::new(network(&[]));
    let mut driver = Driver::new(2);
    driver.offer(1, &[Buffer::Says(b"a frame")]);
    driver.serve(&mut card, 1).unwrap();
    assert!(driver.used(1).is_empty());
}

#[test]
fn a_reset_ends_what_was_for_the_last_driver() {
    let mut card = Resting::new(network(b"a frame"));
    assert_eq!(card.state(), network(b"a frame"));
    card.reset();
    assert_eq!(card.state(), network(&[]));

    let sockets = |reset_due| {
        DeviceStateV1::Vsock(VsockStateV1 {
            cid: 3,
            socket: "/nowhere".into(),
            reset_due,
        })
    };
    let mut vsock = Resting::new(sockets(true));
    vsock.reset();
    assert_eq!(vsock.state(), sockets(false));
}

#[test]
fn other_devices_than_those_announced_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(&specs(&dir, false), &Ownership::new(true)).unwrap();
    let mut saved = states(&opened);
    let resting = || at_rest(&saved).unwrap();
    let (fewer, others) = (resting(), resting());
    saved.swap(0, 2);
    let refused = |result: Result<_, VirtioError>| matches!(result, Err(VirtioError::OtherDevices));
    assert!(refused(catch_up(fewer, &saved[1..])));
    assert!(refused(catch_up(others, &saved)));
    drop(opened);
}
