//! Registers and live devices, used like a driver does.

mod lending;
mod resting;

use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::fuzz;
use super::kind::Kind;
use super::live::LiveDevice;
use super::mmio::{Transport, TransportError};
use super::prepared_slot::PreparedSlot;
use super::rng::Rng;
use super::slot::Slot;
use super::state::{TransportStateV1, VirtioStateV1};
use super::testing::{BUFFERS, Buffer, Driver, TestRng, descriptor, memory, survives_nonsense};
use super::{Opened, VirtioError};

const TABLE: u32 = 0x4000;
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1;

fn prepared(opened: &Opened) -> PreparedSlot {
    PreparedSlot::of_no_vm(opened.slot, opened.layout().rings).unwrap()
}

fn live(state: Option<VirtioStateV1>, memory: &GuestMemoryMmap) -> Result<LiveDevice, VirtioError> {
    let opened = Opened {
        slot: Slot::new(0).unwrap(),
        device: Box::new(Rng),
        transport: state.map(|state| state.transport),
    };
    let prepared = prepared(&opened);
    LiveDevice::new(
        "rng0".into(),
        opened,
        memory.clone(),
        prepared.line,
        prepared.kicks,
    )
}

fn get(device: &LiveDevice, offset: u32) -> u32 {
    let mut word = [0; 4];
    device.read(offset, &mut word);
    u32::from_le_bytes(word)
}

fn put(device: &LiveDevice, offset: u32, value: u32) {
    device.write(offset, &value.to_le_bytes());
}

/// Brings a device up as a driver does.
fn bring_up(device: &LiveDevice) {
    let mut status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    put(device, VIRTIO_MMIO_STATUS, 0);
    put(device, VIRTIO_MMIO_STATUS, status);
    put(device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    put(device, VIRTIO_MMIO_DRIVER_FEATURES, (FEATURES >> 32) as u32);
    status |= VIRTIO_CONFIG_S_FEATURES_OK;
    put(device, VIRTIO_MMIO_STATUS, status);
    assert_eq!(get(device, VIRTIO_MMIO_STATUS), status);
    put(device, VIRTIO_MMIO_QUEUE_NUM, 16);
    put(device, VIRTIO_MMIO_QUEUE_DESC_LOW, TABLE);
    put(device, VIRTIO_MMIO_QUEUE_AVAIL_LOW, TABLE + 0x1000);
    put(device, VIRTIO_MMIO_QUEUE_USED_LOW, TABLE + 0x2000);
    put(device, VIRTIO_MMIO_QUEUE_READY, 1);
    put(
        device,
        VIRTIO_MMIO_STATUS,
        status | VIRTIO_CONFIG_S_DRIVER_OK,
    );
}

/// Makes one buffer of 32 bytes available.
fn offer(memory: &GuestMemoryMmap, index: u16) {
    let table = GuestAddress(TABLE.into());
    memory
        .write_obj(descriptor(BUFFERS, 32, 2, 0), table)
        .unwrap();
    let avail = u64::from(TABLE) + 0x1002;
    memory.write_obj(index, GuestAddress(avail)).unwrap();
}

fn used(memory: &GuestMemoryMmap) -> u16 {
    let at = u64::from(TABLE) + 0x2002;
    memory.read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn a_device_says_what_it_is() {
    let device = live(None, &memory()).unwrap();
    assert_eq!(
        get(&device, VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(),
        *b"virt"
    );
    assert_eq!(get(&device, VIRTIO_MMIO_VERSION), 2);
    assert_eq!(get(&device, VIRTIO_MMIO_DEVICE_ID), 4);
    assert_eq!(get(&device, VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    put(&device, VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(get(&device, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    put(&device, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    assert_eq!(get(&device, VIRTIO_MMIO_DEVICE_FEATURES), 1);
    put(&device, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(get(&device, VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

#[test]
fn registers_are_accessed_whole() {
    let device = live(None, &memory()).unwrap();
    let mut byte = [0xff];
    device.read(VIRTIO_MMIO_MAGIC_VALUE, &mut byte);
    assert_eq!(byte, [0]);
    device.write(VIRTIO_MMIO_STATUS, &[1]);
    assert_eq!(get(&device, VIRTIO_MMIO_STATUS), 0);
    let mut beyond = [0xff; 8];
    device.read(VIRTIO_MMIO_CONFIG + 0xe00, &mut beyond);
    assert_eq!(beyond, [0; 8]);
}

#[test]
fn features_that_were_not_offered_are_not_agreed_on() {
    let device = live(None, &memory()).unwrap();
    put(&device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    // VERSION_1 is missing, then RING_PACKED is too much.
    for features in [0, 0b101] {
        put(&device, VIRTIO_MMIO_DRIVER_FEATURES, features);
        put(&device, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_FEATURES_OK);
        assert_eq!(get(&device, VIRTIO_MMIO_STATUS), 0);
    }
    put(&device, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER_OK);
    assert_eq!(get(&device, VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn a_ring_is_set_up_in_its_time_only() {
    let device = live(None, &memory()).unwrap();
    put(&device, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(get(&device, VIRTIO_MMIO_QUEUE_READY), 0);
    bring_up(&device);
    put(&device, VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(get(&device, VIRTIO_MMIO_QUEUE_READY), 1);
    put(&device, VIRTIO_MMIO_STATUS, 0);
    assert_eq!(get(&device, VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn a_parked_device_waits_and_looks_again() {
    let memory = memory();
    let device = live(None, &memory).unwrap();
    bring_up(&device);
    offer(&memory, 1);
    device.on_kick(0);
    assert_eq!(used(&memory), 0, "it worked before it was let");
    device.unpark();
    assert_eq!(get(&device, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert_eq!(device.kicks[0].read().unwrap(), 1);
    device.on_kick(0);
    assert_eq!(used(&memory), 1);
    put(&device, VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(get(&device, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    device.park();
    offer(&memory, 2);
    device.on_kick(0);
    assert_eq!(used(&memory), 1);
    assert_eq!(device.counts().requests, 1);
}

#[test]
fn a_restored_device_goes_on_where_it_was() {
    let memory = memory();
    let old = live(None, &memory).unwrap();
    old.unpark();
    bring_up(&old);
    offer(&memory, 1);
    old.on_kick(0);
    old.park();
    // The notification for this one is lost with the host.
    offer(&memory, 2);
    let state = old.save();
    assert_eq!(state.transport.interrupt_status, 1);
    assert_eq!(state.transport.queues[0].next_avail, 1);

    let new = live(Some(state.clone()), &memory).unwrap();
    assert_eq!(new.save(), state);
    new.unpark();
    new.on_kick(0);
    assert_eq!(used(&memory), 2);
}

#[test]
fn a_state_that_a_device_cannot_have_is_refused() {
    let memory = memory();
    let good = live(None, &memory).unwrap().save();
    let refused = |change: &dyn Fn(&mut TransportStateV1)| {
        let mut state = good.clone();
        change(&mut state.transport);
        let made = Transport::from_state(Kind::Rng, 0, &[64], &state.transport);
        made.map(drop).unwrap_err()
    };
    let mut asked_for = good.clone();
    asked_for.transport.driver_features = 1 << 5;
    let agreed = VIRTIO_CONFIG_S_FEATURES_OK;
    let features = refused(&|state| {
        *state = asked_for.transport.clone();
        state.status |= agreed;
    });
    assert!(matches!(
        features,
        TransportError::Features { features: 32 }
    ));
    // A driver's request that was not negotiated may be anything.
    let made = Transport::from_state(Kind::Rng, 0, &[64], &asked_for.transport);
    assert!(made.is_ok());
    let count = refused(&|state| state.queues.clear());
    assert!(matches!(count, TransportError::QueueCount { found: 0, .. }));
    let size = refused(&|state| state.queues[0].size = 3);
    assert!(matches!(size, TransportError::Queue { index: 0, .. }));
    let table = refused(&|state| state.queues[0].desc_table = 1);
    assert!(matches!(table, TransportError::Queue { index: 0, .. }));
    // Rings of a device with longer ones, and of one with shorter ones.
    for max_size in [128, 32] {
        let other = refused(&|state| {
            state.queues[0].max_size = max_size;
            state.queues[0].size = max_size.min(64);
        });
        assert!(matches!(
            other,
            TransportError::QueueSize { index: 0, expected: 64, found } if found == max_size
        ));
    }
}

#[test]
fn a_broken_ring_needs_a_reset_and_works_after_it() {
    let memory = memory();
    let device = live(None, &memory).unwrap();
    device.unpark();
    bring_up(&device);
    offer(&memory, 1);
    // A chain that leaves its table.
    let table = GuestAddress(TABLE.into());
    let wrong = descriptor(BUFFERS, 32, 3, 99);
    memory.write_obj(wrong, table).unwrap();
    device.on_kick(0);
    let status = get(&device, VIRTIO_MMIO_STATUS);
    assert_ne!(status & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    assert_ne!(get(&device, VIRTIO_MMIO_INTERRUPT_STATUS) & 2, 0);
    assert_eq!((used(&memory), device.counts().errors), (0, 1));
    device.on_kick(0);
    assert_eq!(device.counts().errors, 1, "it goes on while broken");
    bring_up(&device);
    offer(&memory, 1);
    device.on_kick(0);
    assert_eq!(used(&memory), 1);
}

#[test]
fn rings_outside_of_memory_break_the_device() {
    let memory = memory();
    let device = live(None, &memory).unwrap();
    device.unpark();
    bring_up(&device);
    put(&device, VIRTIO_MMIO_STATUS, 0);
    put(&device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    put(&device, VIRTIO_MMIO_DRIVER_FEATURES, 1);
    put(&device, VIRTIO_MMIO_STATUS, 8);
    put(&device, VIRTIO_MMIO_QUEUE_USED_HIGH, 0xffff_ffff);
    put(&device, VIRTIO_MMIO_QUEUE_READY, 1);
    put(&device, VIRTIO_MMIO_STATUS, 12);
    let status = get(&device, VIRTIO_MMIO_STATUS);
    assert_ne!(status & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    // The driver is notified of this, and of nothing else.
    assert_eq!(get(&device, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    // Also if the interrupt was lost with its host.
    device.park();
    put(&device, VIRTIO_MMIO_INTERRUPT_ACK, 2);
    let next = live(Some(device.save()), &memory).unwrap();
    next.unpark();
    assert_eq!(get(&next, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
}

#[test]
fn any_writes_to_registers_are_survived() {
    let memory = memory();
    let device = live(None, &memory).unwrap();
    device.unpark();
    let mut rng = TestRng::new(3);
    for _ in 0..20_000 {
        let offset = (rng.roll() % 0x110) as u32 & !3;
        let value = rng.one_of(&[0, 1, 2, 4, 8, 12, 15, 16, TABLE, u32::MAX]);
        put(&device, offset, value);
        get(&device, offset);
        device.on_kick(0);
    }
}

#[test]
fn random_numbers_are_given() {
    let mut driver = Driver::new(1);
    driver.offer(0, &[Buffer::Room(64)]);
    driver.serve(&mut Rng, 0).unwrap();
    assert_eq!(driver.used(0), [(0, 64)]);
    assert!(driver.bytes(0, 0, 64).iter().any(|&byte| byte != 0));
    survives_nonsense(&mut Rng, 1);
}

#[test]
fn fuzz_virtio_rng() {
    let seeds = [
        fuzz::seed(&[], 0, 4, &[(2, 6)]),
        fuzz::seed(&[], 0, 8, &[(2, 6), (4, 11)]),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    crate::fuzz::run("virtio-rng", &seeds, |input| {
        fuzz::Guest::new(Box::new(Rng)).run(input, |_| {});
    });
}

#[test]
fn fuzz_virtio_state() {
    let memory = memory();
    let device = live(None, &memory).unwrap();
    bring_up(&device);
    device.unpark();
    device.park();
    let mut seeds = Vec::new();
    for state in [device.save(), live(None, &memory).unwrap().save()] {
        let mut seed = Vec::new();
        ciborium::into_writer(&state, &mut seed).unwrap();
        seeds.push(seed);
    }
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    crate::fuzz::run("virtio-state", &seeds, |mut input| {
        let Ok(state) = ciborium::from_reader::<VirtioStateV1, _>(&mut input) else {
            return;
        };
        let mut transport = state.transport.clone();
        let Ok(device) = live(Some(state), &memory) else {
            return;
        };
        // What is accepted is what it was, but for features that are not offered here, and works.
        let restored = device.save().transport;
        transport.device_features &= restored.device_features;
        assert_eq!(restored, transport);
        device.unpark();
        device.on_kick(0);
        device.on_source();
        put(&device, VIRTIO_MMIO_STATUS, 0);
        // What was not offered to a guest before is not offered after a reset.
        if restored.device_features & FEATURES == FEATURES {
            bring_up(&device);
            assert_eq!(get(&device, VIRTIO_MMIO_STATUS), 15);
        }
    });
}
