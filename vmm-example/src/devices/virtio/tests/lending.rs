//! The devices' open descriptors in another process.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::super::console::ConsoleDevice;
use super::super::device::Device;
use super::super::device_state::ConsoleTarget;
use super::super::live::LiveDevice;
use super::super::spec::{DeviceSpecs, DiskSpec, HvcSpec, VsockSpec};
use super::super::testing::{Buffer, Driver, memory};
use super::super::{inherit, open};
use super::prepared;
use crate::socket::Ownership;

#[test]
fn who_is_connected_to_a_console_stays_when_another_process_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hvc");
    let target = ConsoleTarget::Socket(path.clone());
    let (old_ownership, new_ownership) = (Ownership::new(true), Ownership::new(false));
    let mut old = ConsoleDevice::open(&target, &old_ownership).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"to the old").unwrap();
    let mut driver = Driver::new(2);
    driver.offer(0, &[Buffer::Room(64)]);
    driver.serve(&mut old, 0).unwrap();
    assert_eq!(driver.bytes(0, 0, 10), b"to the old");

    let mut lent = old.lend().unwrap().into_iter().map(|(_, fd)| fd);
    let listener = lent.next().unwrap();
    let mut new = ConsoleDevice::inherit(&target, listener, lent.next(), &new_ownership).unwrap();
    old_ownership.set(false);
    drop(old);
    client.write_all(b"to the new").unwrap();
    let mut driver = Driver::new(2);
    driver.offer(0, &[Buffer::Room(64)]);
    driver.serve(&mut new, 0).unwrap();
    assert_eq!(driver.bytes(0, 0, 10), b"to the new");
    drop(new);
    assert!(path.exists());
}

#[test]
fn what_devices_have_open_goes_to_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let [image, hvc, vsock] = ["image", "hvc", "vsock"].map(|name| dir.path().join(name));
    fs::write(&image, [0; 4096]).unwrap();
    let specs = DeviceSpecs {
        disks: vec![DiskSpec {
            path: image.clone(),
            ..DiskSpec::default()
        }],
        console: Some(HvcSpec(ConsoleTarget::Socket(hvc.clone()))),
        rng: true,
        vsock: Some(VsockSpec {
            cid: 3,
            socket: vsock.clone(),
        }),
        ..DeviceSpecs::default()
    };
    let (old_ownership, new_ownership) = (Ownership::new(true), Ownership::new(false));
    let memory = memory();
    let live = |opened| {
        let prepared = prepared(&opened);
        LiveDevice::new(
            "x".into(),
            opened,
            memory.clone(),
            prepared.line,
            prepared.kicks,
        )
        .unwrap()
    };
    let old: Vec<_> = open(&specs, &old_ownership)
        .unwrap()
        .into_iter()
        .map(live)
        .collect();
    let states: Vec<_> = old.iter().map(LiveDevice::save).collect();
    let lent = old.iter().flat_map(|device| device.lend().unwrap());
    let lent: HashMap<String, OwnedFd> = lent.collect();
    let mut names: Vec<_> = lent.keys().cloned().collect();
    names.sort();
    assert_eq!(
        names,
        ["virtio0-disk", "virtio1-listener", "virtio3-listener"]
    );

    let new = inherit(&states, lent, &new_ownership).unwrap();
    for (opened, state) in new.iter().zip(&states) {
        assert_eq!(opened.device.state(), state.device);
    }
    old_ownership.set(false);
    drop(old);
    let other = File::open(&image).unwrap();
    let lock = || rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(lock().is_err());
    assert!(UnixStream::connect(&hvc).is_ok() && UnixStream::connect(&vsock).is_ok());
    new_ownership.set(true);
    drop(new);
    assert!(lock().is_ok());
    assert!(!hvc.exists() && !vsock.exists());
}
