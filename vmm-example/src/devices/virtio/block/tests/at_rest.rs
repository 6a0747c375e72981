//! A disk in a machine, whose vCPUs access it and which is to come to rest.

use std::time::Duration;

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_mmio::*;
use virtio_queue::QueueT;
use vmm_fdbox::Deadline;

use super::held::{Held, fine, offer_read};
use super::*;
use crate::devices::virtio::VirtioError;
use crate::devices::virtio::live::LiveDevice;
use crate::devices::virtio::open::Opened;
use crate::devices::virtio::prepared_slot::PreparedSlot;
use crate::devices::virtio::slot::Slot;
use crate::devices::virtio::testing::{BUFFERS, descriptor};

/// A disk in a machine, with `requests` of its guest in its ring.
fn live(held: &Held, requests: u64) -> (LiveDevice, Driver) {
    let opened = Opened {
        slot: Slot::new(0).unwrap(),
        device: Box::new(held.disk()),
        transport: None,
    };
    let bay = PreparedSlot::of_no_vm(opened.slot, opened.layout().rings).unwrap();
    let mut driver = Driver::new(1);
    let memory = driver.memory.clone();
    let device = LiveDevice::new("blk0".into(), opened, memory, bay.line, bay.kicks).unwrap();
    device.unpark();
    let put = |offset, value: u32| device.write(offset, &value.to_le_bytes());
    put(VIRTIO_MMIO_STATUS, 3);
    put(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    put(VIRTIO_MMIO_DRIVER_FEATURES, 1 << (VIRTIO_F_VERSION_1 - 32));
    put(VIRTIO_MMIO_STATUS, 11);
    put(VIRTIO_MMIO_QUEUE_NUM, driver.queues[0].size().into());
    put(
        VIRTIO_MMIO_QUEUE_DESC_LOW,
        driver.queues[0].desc_table() as u32,
    );
    put(
        VIRTIO_MMIO_QUEUE_AVAIL_LOW,
        driver.queues[0].avail_ring() as u32,
    );
    put(
        VIRTIO_MMIO_QUEUE_USED_LOW,
        driver.queues[0].used_ring() as u32,
    );
    put(VIRTIO_MMIO_QUEUE_READY, 1);
    put(VIRTIO_MMIO_STATUS, 15);
    for sector in 0..requests {
        offer_read(&mut driver, sector, 512);
    }
    device.on_kick(0);
    (device, driver)
}

fn status(device: &LiveDevice) -> u32 {
    let mut word = [0; 4];
    device.read(VIRTIO_MMIO_STATUS, &mut word);
    u32::from_le_bytes(word)
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
