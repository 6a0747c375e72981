//! A device as a malicious guest drives it: registers, rings and memory, in any order, and with any content.

use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_fdbox::Deadline;

use super::Opened;
use super::device::Device;
use super::live::LiveDevice;
use super::slot::Slot;
use super::testing::{BUFFERS, MEMORY, descriptor, event, memory};
use crate::fuzz::Input;

/// Where the rings are: each has a page of descriptors, one of available and one of used entries.
const RING_STRIDE: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// The descriptors that an input can write. Chains that are longer loop.
const DESCRIPTORS: u8 = 32;
/// The maximum number of actions in an input.
const MAX_ACTIONS: usize = 200;

/// Registers that a driver writes, and one that it does not.
const REGISTERS: [u32; 20] = [
    VIRTIO_MMIO_DEVICE_FEATURES_SEL,
    VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL,
    VIRTIO_MMIO_QUEUE_SEL,
    VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_NOTIFY,
    VIRTIO_MMIO_INTERRUPT_ACK,
    VIRTIO_MMIO_STATUS,
    VIRTIO_MMIO_QUEUE_DESC_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH,
    VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
    VIRTIO_MMIO_QUEUE_USED_LOW,
    VIRTIO_MMIO_QUEUE_USED_HIGH,
    VIRTIO_MMIO_SHM_SEL,
    VIRTIO_MMIO_CONFIG_GENERATION,
    VIRTIO_MMIO_CONFIG,
    VIRTIO_MMIO_MAGIC_VALUE,
    0xffc,
];

/// A guest with a device.
pub(super) struct Guest {
    memory: GuestMemoryMmap,
    pub(super) device: LiveDevice,
    rings: usize,
    /// How many entries each ring has had made available.
    available: Vec<u16>,
}

impl Guest {
    pub(super) fn new(device: Box<dyn Device>) -> Self {
        let memory = memory();
        let rings = device.queue_sizes().len();
        let opened = Opened {
            slot: Slot::new(0).expect("a slot"),
            device,
            transport: None,
        };
        let kicks = (0..rings).map(|_| event()).collect();
        let device = LiveDevice::new("dev0".into(), opened, memory.clone(), event(), kicks);
        let device = device.expect("a device");
        device.unpark();
        Self {
            memory,
            device,
            rings,
            available: vec![0; rings],
        }
    }

    /// Does what the input says, first what most drivers do. `host` does something else that the device waits for;
    /// its number says what.
    pub(super) fn run(&mut self, input: &[u8], mut host: impl FnMut(u8)) {
        let input = &mut Input::new(input);
        self.bring_up(input.u8());
        for _ in 0..MAX_ACTIONS {
            if input.is_empty() {
                return;
            }
            match input.u8() % 12 {
                0 => self.write_register(input),
                1 => self.read(input),
                2 | 3 => self.write_descriptor(input),
                4 => self.make_available(input),
                5 => self.device.on_kick(self.ring(input)),
                6 => self.device.on_source(),
                7 => host(input.u8()),
                8 | 9 => self.write_memory(input),
                10 => self.offer_chain(input),
                _ => self.update(),
            }
        }
    }

    fn ring(&self, input: &mut Input<'_>) -> usize {
        usize::from(input.u8()) % self.rings
    }

    fn put(&self, register: u32, value: u32) {
        self.device.write(register, &value.to_le_bytes());
    }

    fn bring_up(&self, features: u8) {
        self.put(VIRTIO_MMIO_STATUS, 3);
        for (half, value) in [(0, u32::MAX), (1, 1)] {
            self.put(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
            let mut offered = [0; 4];
            self.device.read(VIRTIO_MMIO_DEVICE_FEATURES, &mut offered);
            // All that the device has, or few of them.
            let wanted = match features % 2 {
                0 => value,
                _ => 0x0101_0101u32.wrapping_mul(features.into()) & value,
            };
            let accepted = u32::from_le_bytes(offered) & wanted;
            self.put(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.put(VIRTIO_MMIO_DRIVER_FEATURES, accepted | half);
        }
        self.put(VIRTIO_MMIO_STATUS, 11);
        for ring in 0..self.rings {
            let at = table(ring) as u32;
            self.put(VIRTIO_MMIO_QUEUE_SEL, ring as u32);
            self.put(VIRTIO_MMIO_QUEUE_NUM, DESCRIPTORS.into());
            self.put(VIRTIO_MMIO_QUEUE_DESC_LOW, at);
            self.put(VIRTIO_MMIO_QUEUE_AVAIL_LOW, at + AVAILABLE as u32);
            self.put(VIRTIO_MMIO_QUEUE_USED_LOW, at + USED as u32);
            self.put(VIRTIO_MMIO_QUEUE_READY, 1);
        }
        self.put(VIRTIO_MMIO_STATUS, 15);
    }

    fn write_register(&self, input: &mut Input<'_>) {
        let register = REGISTERS[usize::from(input.u8()) % REGISTERS.len()];
        let value = match input.u8() {
            small @ 0..0xf0 => small.into(),
            _ => input.u32(),
        };
        self.put(register, value);
        // An access of another width.
        self.device.write(register, &value.to_le_bytes()[..2]);
    }

    fn read(&self, input: &mut Input<'_>) {
        let mut data = [0; 8];
        let len = 1 << (input.u8() % 4);
        self.device
            .read(u32::from(input.u16()) % 0x1000, &mut data[..len]);
    }

    fn write_descriptor(&self, input: &mut Input<'_>) {
        let ring = self.ring(input);
        let (number, flags, next) = (input.u8() % DESCRIPTORS, input.u8() % 8, input.u8());
        self.describe(ring, number, flags.into(), next.into(), input);
    }

    fn describe(&self, ring: usize, number: u8, flags: u16, next: u16, input: &mut Input<'_>) {
        let addresses = [
            BUFFERS,
            BUFFERS + 0x100,
            BUFFERS + 0x1000,
            BUFFERS + 0x8000,
            table(ring),
            MEMORY as u64 - 8,
            1 << 40,
            u64::MAX - 3,
        ];
        let lens = [
            0,
            1,
            8,
            12,
            16,
            44,
            64,
            512,
            1024,
            4096,
            0x1_0000,
            0x10_0000,
            u32::MAX,
        ];
        let at = match usize::from(input.u8()) {
            known if known < 200 => addresses[known % addresses.len()],
            _ => input.u64(),
        };
        let len = match usize::from(input.u8()) {
            known if known < 200 => lens[known % lens.len()],
            _ => input.u32(),
        };
        let place = GuestAddress(table(ring) + 16 * u64::from(number));
        // All descriptors are inside memory.
        let written = self
            .memory
            .write_obj(descriptor(at, len, flags, next), place);
        written.expect("a descriptor");
    }

    fn make_available(&mut self, input: &mut Input<'_>) {
        let (ring, head) = (self.ring(input), input.u8());
        self.push(ring, head.into());
        if head == 0xff {
            // More than there are.
            self.set_available(ring, input.u16());
        }
    }

    fn push(&mut self, ring: usize, head: u16) {
        let index = self.available[ring];
        let entry = table(ring) + AVAILABLE + 4 + 2 * u64::from(index % u16::from(DESCRIPTORS));
        self.memory
            .write_obj(head, GuestAddress(entry))
            .expect("an entry");
        self.set_available(ring, index.wrapping_add(1));
    }

    fn set_available(&mut self, ring: usize, index: u16) {
        self.available[ring] = index;
        let at = GuestAddress(table(ring) + AVAILABLE + 2);
        self.memory.write_obj(index, at).expect("the index");
    }

    fn write_memory(&self, input: &mut Input<'_>) {
        let offset = u64::from(input.u8()) * 8;
        let len = usize::from(input.u8() % 64);
        let bytes = input.bytes(len);
        let written = self
            .memory
            .write_slice(bytes, GuestAddress(BUFFERS + offset));
        written.expect("the buffers");
    }

    /// A chain as a driver makes it: some buffers that are read, and then some that are written.
    fn offer_chain(&mut self, input: &mut Input<'_>) {
        let (ring, shape) = (self.ring(input), input.u8());
        let (read, written) = (shape % 4, shape / 4 % 4);
        let count = read + written;
        let first = input.u8() % (DESCRIPTORS - 8);
        for number in 0..count {
            let more = u16::from(number + 1 < count);
            let flags = more | if number < read { 0 } else { 2 };
            let next = u16::from(first + number + 1);
            self.describe(ring, first + number, flags, next, input);
        }
        self.push(ring, first.into());
        self.device.on_kick(ring);
    }

    /// What an update that is rolled back does.
    fn update(&self) {
        self.device.quiesce();
        self.device.on_source();
        if self
            .device
            .drain(Deadline::within(std::time::Duration::ZERO))
            .is_ok()
        {
            self.device.park();
            let _ = self.device.save();
            let _ = self.device.needs();
        }
        self.device.unpark();
    }
}

fn table(ring: usize) -> u64 {
    RING_STRIDE * (ring as u64 + 1)
}

/// An input in which a driver makes one request, for a device's seeds.
pub(super) fn seed(memory: &[u8], ring: u8, shape: u8, buffers: &[(u8, u8)]) -> Vec<u8> {
    let mut seed = vec![0, 8, 0, memory.len() as u8];
    seed.extend(memory);
    seed.extend([10, ring, shape, 0]);
    seed.extend(buffers.iter().flat_map(|(at, len)| [*at, *len]));
    seed.extend([6, 7, 1, 6, 11]);
    seed
}
