//! A driver for tests: rings in its own memory, and buffers for them.

use std::sync::atomic::AtomicBool;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Opened;
use super::device::Device;
use super::interrupt::Interrupt;
use super::live::LiveDevice;
use super::prepared_slot::PreparedSlot;
use super::ring::{RingError, Rings};
use super::slot::Slot;

pub(super) const MEMORY: usize = 2 << 20;
const RING_SIZE: u16 = 128;
/// The distance between two rings, in bytes.
const RING_STRIDE: u64 = 0x4000;
/// The start of the buffers, after all rings.
pub(super) const BUFFERS: u64 = 0x10_0000;
/// The distance between two buffers, in bytes.
const BUFFER_STRIDE: u64 = 0x1_0000;

pub(super) fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

pub(super) fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Buffer<'a> {
    /// The driver's input.
    Says(&'a [u8]),
    /// Space for this many bytes.
    Room(u32),
}

/// See the module's documentation.
pub(super) struct Driver {
    pub(super) memory: GuestMemoryMmap,
    pub(super) queues: Vec<Queue>,
    pub(super) interrupt: Interrupt,
    pub(super) stop: AtomicBool,
    kicks: Vec<EventFd>,
    next_descriptor: Vec<u16>,
}

impl Driver {
    pub(super) fn new(rings: usize) -> Self {
        Self {
            memory: memory(),
            queues: (0..rings).map(set_up).collect(),
            interrupt: Interrupt::new(event(), 0),
            stop: AtomicBool::new(false),
            kicks: (0..rings).map(|_| event()).collect(),
            next_descriptor: vec![0; rings],
        }
    }

    /// The address of a descriptor's buffer.
    pub(super) fn buffer_at(ring: usize, descriptor: u16) -> u64 {
        let number = ring as u64 * u64::from(RING_SIZE) + u64::from(descriptor);
        BUFFERS + (number % 15) * BUFFER_STRIDE
    }

    /// Makes a chain available and returns its first descriptor.
    pub(super) fn offer(&mut self, ring: usize, buffers: &[Buffer<'_>]) -> u16 {
        let first = self.next_descriptor[ring];
        let mut descriptors = Vec::new();
        for (number, buffer) in (first..).zip(buffers) {
            let at = Self::buffer_at(ring, number);
            let (len, mut flags) = match buffer {
                Buffer::Says(bytes) => {
                    self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
                    (bytes.len() as u32, 0)
                }
                Buffer::Room(len) => (*len, VRING_DESC_F_WRITE as u16),
            };
            if usize::from(number - first) + 1 < buffers.len() {
                flags |= VRING_DESC_F_NEXT as u16;
            }
            descriptors.push(descriptor(at, len, flags, number + 1));
        }
        self.offer_raw(ring, &descriptors, first);
        self.next_descriptor[ring] += buffers.len() as u16;
        first
    }

    /// Makes descriptors available unchanged.
    pub(super) fn offer_raw(&mut self, ring: usize, descriptors: &[RawDescriptor], first: u16) {
        let queue = &self.queues[ring];
        let (table, avail) = (queue.desc_table(), queue.avail_ring());
        let idx: u16 = self.memory.read_obj(GuestAddress(avail + 2)).unwrap();
        let mut heads = idx;
        let mut starts = true;
        for (number, descriptor) in (first..).zip(descriptors) {
            let at = GuestAddress(table + 16 * u64::from(number));
            self.memory.write_obj(*descriptor, at).unwrap();
            if starts {
                let at = avail + 4 + 2 * u64::from(heads % RING_SIZE);
                self.memory.write_obj(number, GuestAddress(at)).unwrap();
                heads += 1;
            }
            starts = !Descriptor::from(*descriptor).has_next();
        }
        self.memory
            .write_obj(heads, GuestAddress(avail + 2))
            .unwrap();
    }

    /// Makes a device serve a ring.
    pub(super) fn serve(&mut self, device: &mut dyn Device, ring: usize) -> Result<(), RingError> {
        self.with(|rings| device.serve(ring, rings))
    }

    pub(super) fn with<T>(&mut self, task: impl FnOnce(&mut Rings<'_>) -> T) -> T {
        task(&mut Rings {
            queues: &mut self.queues,
            memory: &self.memory,
            interrupt: &self.interrupt,
            stop: &self.stop,
            kicks: &self.kicks,
        })
    }

    /// The used entries: first descriptors and bytes written.
    pub(super) fn used(&self, ring: usize) -> Vec<(u32, u32)> {
        let at = self.queues[ring].used_ring();
        let read = |at| self.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        let count: u16 = self.memory.read_obj(GuestAddress(at + 2)).unwrap();
        let elements = (0..u64::from(count)).map(|number| at + 4 + number * 8);
        elements.map(|at| (read(at), read(at + 4))).collect()
    }

    /// The content of a descriptor's buffer.
    pub(super) fn bytes(&self, ring: usize, descriptor: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let at = GuestAddress(Self::buffer_at(ring, descriptor));
        self.memory.read_slice(&mut bytes, at).unwrap();
        bytes
    }
}

/// A device in a machine, at work, with the rings of a driver.
pub(super) fn live(name: &str, device: Box<dyn Device>, driver: &Driver) -> LiveDevice {
    let opened = Opened {
        slot: Slot::new(0).unwrap(),
        device,
        transport: None,
    };
    let prepared = PreparedSlot::of_no_vm(opened.slot, opened.layout().rings).unwrap();
    let (memory, sizes) = (driver.memory.clone(), opened.device.queue_sizes());
    let device =
        LiveDevice::new(name.into(), opened, memory, prepared.line, prepared.kicks).unwrap();
    device.unpark();
    let put = |offset, value: u32| device.write(offset, &value.to_le_bytes());
    put(VIRTIO_MMIO_STATUS, 3);
    put(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    put(VIRTIO_MMIO_DRIVER_FEATURES, 1 << (VIRTIO_F_VERSION_1 - 32));
    put(VIRTIO_MMIO_STATUS, 11);
    for ((number, queue), size) in (0..).zip(&driver.queues).zip(sizes) {
        put(VIRTIO_MMIO_QUEUE_SEL, number);
        put(VIRTIO_MMIO_QUEUE_NUM, queue.size().min(*size).into());
        put(VIRTIO_MMIO_QUEUE_DESC_LOW, queue.desc_table() as u32);
        put(VIRTIO_MMIO_QUEUE_AVAIL_LOW, queue.avail_ring() as u32);
        put(VIRTIO_MMIO_QUEUE_USED_LOW, queue.used_ring() as u32);
        put(VIRTIO_MMIO_QUEUE_READY, 1);
    }
    put(VIRTIO_MMIO_STATUS, 15);
    device
}

/// The register of a device's status.
pub(super) fn status(device: &LiveDevice) -> u32 {
    let mut word = [0; 4];
    device.read(VIRTIO_MMIO_STATUS, &mut word);
    u32::from_le_bytes(word)
}

pub(super) fn descriptor(at: u64, len: u32, flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor::from(Descriptor::new(at, len, flags, next))
}

/// A ring set up by its driver: descriptors, available, used.
fn set_up(ring: usize) -> Queue {
    let at = (RING_STRIDE * (ring as u64 + 1)) as u32;
    let mut queue = Queue::new(RING_SIZE).unwrap();
    queue.set_desc_table_address(Some(at), None);
    queue.set_avail_ring_address(Some(at + 0x1000), None);
    queue.set_used_ring_address(Some(at + 0x2000), None);
    queue.set_ready(true);
    queue
}

/// A reproducible random number generator.
pub(super) struct TestRng(u64);

impl TestRng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.roll() % all.len() as u64) as usize]
    }
}

/// Serves rings full of garbage: nothing may panic, and the device must serve a good ring after a
/// reset.
pub(super) fn survives_nonsense(device: &mut dyn Device, rings: usize) {
    let mut rng = TestRng::new(7);
    for round in 0..400 {
        let mut driver = Driver::new(rings);
        for ring in 0..rings {
            scatter(&mut driver, ring, &mut rng, round % 3 == 0);
        }
        for ring in 0..rings {
            // Broken or not, both are acceptable.
            let _ = driver.serve(device, ring);
        }
        let _ = driver.with(|rings| device.serve_source(rings));
        device.reset();
    }
}

/// Fills a ring with partly valid descriptors.
fn scatter(driver: &mut Driver, ring: usize, rng: &mut TestRng, wild: bool) {
    let good = [BUFFERS, BUFFERS + 0x100, 0x17_0000];
    let odd = [
        0,
        0x4000,
        MEMORY as u64 - 8,
        MEMORY as u64,
        u64::MAX - 3,
        1 << 40,
    ];
    let lens = [
        0,
        1,
        4,
        8,
        12,
        16,
        44,
        64,
        512,
        513,
        4096,
        0x1_0000,
        0x20_0000,
        u32::MAX,
    ];
    let mut descriptors = Vec::new();
    for _ in 0..RING_SIZE {
        let at = if wild {
            rng.one_of(&odd)
        } else {
            rng.one_of(&good)
        };
        let flags = (rng.roll() % if wild { 8 } else { 4 }) as u16;
        let next = (rng.roll() % u64::from(RING_SIZE + u16::from(wild) * 9)) as u16;
        descriptors.push(descriptor(at, rng.one_of(&lens), flags, next));
    }
    driver.offer_raw(ring, &descriptors, 0);
    let noise: Vec<u8> = (0..0x400).map(|_| (rng.roll() % 24) as u8).collect();
    driver
        .memory
        .write_slice(&noise, GuestAddress(BUFFERS))
        .unwrap();
    if wild {
        let avail = driver.queues[ring].avail_ring();
        let heads = rng.roll();
        driver
            .memory
            .write_obj(heads, GuestAddress(avail + 2))
            .unwrap();
    }
}
