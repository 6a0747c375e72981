//! Quiescing a disk in a machine whose vCPUs access it.

use std::time::Duration;

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;
use vmm_fdbox::Deadline;

use super::held::{Held, fine, offer_read};
use super::*;
use crate::devices::virtio::VirtioError;
use crate::devices::virtio::live::LiveDevice;
use crate::devices::virtio::testing::{self, BUFFERS, descriptor, status};

/// A disk in a machine, with `requests` of its guest in its ring.
fn live(held: &Held, requests: u64) -> (LiveDevice, Driver) {
    let mut driver = Driver::new(1);
    let device = testing::live("blk0", Box::new(held.disk()), &driver);
    for sector in 0..requests {
        offer_read(&mut driver, sector, 512);
    }
    device.on_kick(0);
    (device, driver)
}

#[test]
fn registers_answer_while_the_disk_does_not() {
    let held = Held::new();
    let (device, driver) = live(&held, 16);
    assert_eq!(held.count(), 16);
    assert_eq!(status(&device), 15);
    // Also a reset, and what follows it.
    device.write(VIRTIO_MMIO_STATUS, &[0; 4]);
    assert_eq!(status(&device), 0);
    held.end(16, fine);
    device.on_source();
    assert!(driver.used(0).is_empty());
}

#[test]
fn a_device_comes_to_rest_within_a_limit_or_not_at_all() {
    let held = Held::new();
    let (device, mut driver) = live(&held, 4);
    device.quiesce();
    let short = Deadline::within(Duration::from_millis(1));
    let busy = device.drain(short).unwrap_err();
    let text = busy.to_string();
    assert!(
        matches!(busy, VirtioError::Busy { requests: 4, .. }),
        "{text}"
    );
    assert!(text.starts_with("blk0 has 4 requests"), "{text}");
    // It answers what it has taken, and takes nothing more.
    offer_read(&mut driver, 9, 512);
    device.on_kick(0);
    held.end(3, fine);
    device.on_source();
    assert_eq!((driver.used(0).len(), held.count()), (3, 1));
    let long = Deadline::within(Duration::from_secs(60));
    std::thread::scope(|scope| {
        let quiet = scope.spawn(|| device.drain(long));
        held.end(1, fine);
        device.on_source();
        quiet.join().unwrap().unwrap();
    });
    device.park();
    let state = device.save();
    assert_eq!(state.transport.queues[0].next_avail, 4);
    assert_eq!(state.transport.queues[0].next_used, 4);
    // The device takes the rest when it continues.
    device.unpark();
    device.on_kick(0);
    assert_eq!(held.count(), 1);
}

#[test]
fn a_ring_that_breaks_keeps_nobody_waiting() {
    let held = Held::new();
    let (device, mut driver) = live(&held, 2);
    // A chain that leaves its table.
    driver.offer_raw(0, &[descriptor(BUFFERS, 32, 3, 999)], 6);
    device.on_kick(0);
    assert_ne!(status(&device) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    device.quiesce();
    held.end(2, fine);
    device.on_source();
    device.drain(Deadline::within(Duration::ZERO)).unwrap();
    assert!(driver.used(0).is_empty());
}
