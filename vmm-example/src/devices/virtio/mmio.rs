//! The registers of virtio-mmio, version 2 (virtio specification, 4.2.2): feature negotiation, the
//! setup of rings, and status.
//!
//! Pure state: the effect of a write is returned, and carried out by [`super::live`].

use thiserror::Error;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::device::bits;
use super::kind::Kind;
use super::state::{QueueStateV1, TransportStateV1};

/// "virt"
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "FDBX"
const VENDOR: u32 = 0x5842_4446;
/// Features of the transport, which every device has.
pub(super) const TRANSPORT_FEATURES: u64 = bits(&[
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
]);
/// The value of the shared memory registers if there is none.
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// A saved state that is impossible for this device.
#[derive(Debug, Error)]
pub(crate) enum TransportError {
    #[error("The guest uses features {features:#x} that this device does not have here")]
    Features { features: u64 },
    #[error("It has {found} rings, this device has {expected}")]
    QueueCount { expected: usize, found: usize },
    #[error("Ring {index} has up to {found} entries, of this device's {expected}")]
    QueueSize {
        index: usize,
        expected: u16,
        found: u16,
    },
    #[error("Ring {index} is invalid: {state:?}")]
    Queue { index: usize, state: QueueStateV1 },
}

/// The effect of a write to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// The driver starts again.
    Reset,
    /// The driver is ready.
    Ready,
    /// A ring has new buffers, and the kernel has not notified the device itself.
    Notify(usize),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Transport {
    kind: Kind,
    device_features: u64,
    driver_features: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    status: u32,
    config_generation: u32,
    queues: Vec<Queue>,
}

impl Transport {
    /// A device in its reset state. `sizes` are powers of two.
    pub(super) fn new(kind: Kind, features: u64, sizes: &[u16]) -> Result<Self, TransportError> {
        let queues = sizes.iter().enumerate().map(|(index, &size)| {
            Queue::new(size).map_err(|_| TransportError::Queue {
                index,
                state: QueueStateV1::from(&Queue::default()),
            })
        });
        Ok(Self {
            kind,
            device_features: features | TRANSPORT_FEATURES,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            status: 0,
            config_generation: 0,
            queues: queues.collect::<Result<_, _>>()?,
        })
    }

    /// Restores a device from its saved state, if that is possible.
    pub(super) fn from_state(
        kind: Kind,
        features: u64,
        sizes: &[u16],
        state: &TransportStateV1,
    ) -> Result<Self, TransportError> {
        let new = Self::new(kind, features, sizes)?;
        // Until they are negotiated they are the driver's request, which may be anything.
        let agreed = state.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        let lost = state.driver_features & !new.device_features;
        if agreed && lost != 0 {
            return Err(TransportError::Features { features: lost });
        }
        if state.queues.len() != sizes.len() {
            return Err(TransportError::QueueCount {
                expected: sizes.len(),
                found: state.queues.len(),
            });
        }
        let sized = state.queues.iter().zip(sizes).enumerate();
        for (index, (QueueStateV1 { max_size, .. }, &expected)) in sized {
            if *max_size != expected {
                let found = *max_size;
                return Err(TransportError::QueueSize {
                    index,
                    expected,
                    found,
                });
            }
        }
        let queues = state.queues.iter().enumerate().map(|(index, state)| {
            Queue::try_from(state).map_err(|_| TransportError::Queue {
                index,
                state: *state,
            })
        });
        Ok(Self {
            device_features: new.device_features & state.device_features,
            driver_features: state.driver_features,
            device_features_sel: state.device_features_sel,
            driver_features_sel: state.driver_features_sel,
            queue_sel: state.queue_sel,
            status: state.status,
            config_generation: state.config_generation,
            queues: queues.collect::<Result<_, _>>()?,
            ..new
        })
    }

    pub(super) fn state(&self, interrupt_status: u32) -> TransportStateV1 {
        TransportStateV1 {
            device_features: self.device_features,
            driver_features: self.driver_features,
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            queue_sel: self.queue_sel,
            status: self.status,
            interrupt_status,
            config_generation: self.config_generation,
            queues: self.queues.iter().map(QueueStateV1::from).collect(),
        }
    }

    pub(super) fn queues(&mut self) -> &mut [Queue] {
        &mut self.queues
    }

    /// The features that device and driver have negotiated.
    pub(super) fn features(&self) -> u64 {
        self.driver_features
    }

    /// The same, once the negotiation is final.
    pub(super) fn agreed_features(&self) -> u64 {
        match self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            true => self.driver_features,
            false => 0,
        }
    }

    /// Whether the driver is ready and the device works.
    pub(super) fn is_working(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK) && !self.has(VIRTIO_CONFIG_S_NEEDS_RESET)
    }

    /// Marks the device as broken until the driver resets it.
    pub(super) fn set_broken(&mut self) {
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    }

    /// Whether the driver is ready and should be told that the device is broken.
    pub(super) fn is_broken(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK) && self.has(VIRTIO_CONFIG_S_NEEDS_RESET)
    }

    fn has(&self, status: u32) -> bool {
        self.status & status != 0
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    /// Reads a register, four bytes wide, except for those of the interrupt.
    pub(super) fn read(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.kind.id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => match self.device_features_sel {
                0 => self.device_features as u32,
                1 => (self.device_features >> 32) as u32,
                _ => 0,
            },
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.queue().map_or(0, |queue| queue.max_size().into()),
            VIRTIO_MMIO_QUEUE_READY => self.queue().map_or(0, |queue| queue.ready().into()),
            VIRTIO_MMIO_STATUS => self.status,
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH => NO_SHARED_MEMORY,
            VIRTIO_MMIO_CONFIG_GENERATION => self.config_generation,
            _ => 0,
        }
    }

    /// Handles a write to a register, four bytes wide.
    pub(super) fn write(&mut self, offset: u32, value: u32, memory: &GuestMemoryMmap) -> Effect {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.set_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => return self.notify(value),
            VIRTIO_MMIO_STATUS => return self.set_status(value, memory),
            _ => self.set_queue(offset, value),
        }
        Effect::Nothing
    }

    fn set_features(&mut self, value: u32) {
        if self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        let (value, high) = (u64::from(value), 0xffff_ffff_0000_0000);
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features & high | value,
            1 => self.driver_features = self.driver_features & !high | value << 32,
            _ => {}
        }
    }

    fn notify(&self, value: u32) -> Effect {
        match usize::try_from(value) {
            Ok(index) if index < self.queues.len() => Effect::Notify(index),
            _ => Effect::Nothing,
        }
    }

    fn set_status(&mut self, value: u32, memory: &GuestMemoryMmap) -> Effect {
        if value == 0 {
            self.reset();
            return Effect::Reset;
        }
        // Only a reset clears bits, and the driver cannot set the device's own bit.
        let new = value & !self.status & !VIRTIO_CONFIG_S_NEEDS_RESET & 0xff;
        self.status |= new & !(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
        if new & VIRTIO_CONFIG_S_FEATURES_OK != 0 && self.features_fit() {
            self.status |= VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if new & VIRTIO_CONFIG_S_DRIVER_OK == 0 || !self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return Effect::Nothing;
        }
        self.status |= VIRTIO_CONFIG_S_DRIVER_OK;
        let event_idx = self.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        for queue in self.queues.iter_mut().filter(|queue| queue.ready()) {
            queue.set_event_idx(event_idx);
            if !queue.is_valid(memory) {
                self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
            }
        }
        Effect::Ready
    }

    /// Whether the driver accepted no feature that was not offered, and all that are required.
    fn features_fit(&self) -> bool {
        self.driver_features & !self.device_features == 0
            && self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn reset(&mut self) {
        self.status = 0;
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.queues.iter_mut().for_each(QueueT::reset);
    }

    /// Sets up a ring: after the features are negotiated and before the driver is ready.
    fn set_queue(&mut self, offset: u32, value: u32) {
        let configurable =
            self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has(VIRTIO_CONFIG_S_DRIVER_OK);
        let queue = usize::try_from(self.queue_sel)
            .ok()
            .and_then(|index| self.queues.get_mut(index));
        let Some(queue) = queue.filter(|_| configurable) else {
            return;
        };
        if offset == VIRTIO_MMIO_QUEUE_READY {
            queue.set_ready(value == 1);
            return;
        }
        if queue.ready() {
            return;
        }
        match offset {
            // An invalid size leaves the size unchanged; the maximum works for any driver.
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }
}
