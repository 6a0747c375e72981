//! A device in a machine: its transport and the device itself behind one lock, with its events and
//! its interrupt outside of it.
//!
//! The lock is only held briefly: nobody waits for the host while holding it. [`super::stage`]
//! describes how a device is stopped.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};
use vm_memory::GuestMemoryMmap;
use vmm_fdbox::{Deadline, Finding};
use vmm_sys_util::eventfd::EventFd;

use super::counters::DeviceCounts;
use super::device::Device;
use super::device_state::{BlockStateV1, DeviceStateV1};
use super::fd_names::device_fd_name;
use super::interrupt::{Interrupt, Reason};
use super::mmio::{Effect, Transport};
use super::needs::{self, Needs};
use super::ring::{RingError, Rings};
use super::slot::{Slot, SlotLayout};
use super::stage::Stage;
use super::state::VirtioStateV1;
use super::{Opened, VirtioError};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct LiveDevice {
    pub(super) name: String,
    pub(super) slot: Slot,
    /// As in [`PreparedSlot`](super::PreparedSlot).
    pub(super) kicks: Vec<EventFd>,
    interrupt: Interrupt,
    /// Set except in [`Stage::Working`]: no more requests are taken.
    stop: AtomicBool,
    core: Mutex<Core>,
    /// Signals that nothing is in flight any more.
    quiet: Condvar,
}

#[derive(Debug)]
struct Core {
    transport: Transport,
    device: Box<dyn Device>,
    memory: GuestMemoryMmap,
    stage: Stage,
    /// Whether there is a restored state that the device itself has not been told about.
    restored: bool,
}

impl LiveDevice {
    /// Puts a device into its slot, parked, with the events of that slot.
    pub(super) fn new(
        name: String,
        opened: Opened,
        memory: GuestMemoryMmap,
        line: EventFd,
        kicks: Vec<EventFd>,
    ) -> Result<Self, VirtioError> {
        let Opened {
            slot,
            mut device,
            transport: state,
        } = opened;
        let (kind, features) = (device.kind(), device.features());
        let sizes = device.queue_sizes();
        let transport = match &state {
            None => Transport::new(kind, features, sizes),
            Some(state) => Transport::from_state(kind, features, sizes, state),
        };
        let transport = transport.map_err(|source| VirtioError::Transport {
            device: name.clone(),
            source,
        })?;
        let started = device.start();
        started.map_err(|source| VirtioError::Start {
            device: name.clone(),
            source,
        })?;
        if transport.is_working() {
            device.activate(transport.features());
        }
        let interrupt_status = state.as_ref().map_or(0, |state| state.interrupt_status);
        Ok(Self {
            name,
            slot,
            kicks,
            interrupt: Interrupt::new(line, interrupt_status),
            stop: AtomicBool::new(true),
            core: Mutex::new(Core {
                transport,
                device,
                memory,
                stage: Stage::Parked,
                restored: state.is_some(),
            }),
            quiet: Condvar::new(),
        })
    }

    pub(super) fn layout(&self) -> SlotLayout {
        SlotLayout::of(self.slot, self.kicks.len())
    }

    /// Handles a read of registers or configuration.
    pub(super) fn read(&self, offset: u32, data: &mut [u8]) {
        if offset >= VIRTIO_MMIO_CONFIG {
            let config = self.lock().device.config();
            let from = config.get((offset - VIRTIO_MMIO_CONFIG) as usize..);
            let from = from.unwrap_or_default();
            data.fill(0);
            data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            return;
        }
        let value = match offset {
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            _ => self.lock().transport.read(offset),
        };
        // Registers can only be read as a whole.
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) => *word = value.to_le_bytes(),
            Err(_) => data.fill(0),
        }
    }

    /// Handles a write to a register. The configuration of the devices is read-only.
    pub(super) fn write(&self, offset: u32, data: &[u8]) {
        let Ok(word) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(word);
        if offset == VIRTIO_MMIO_INTERRUPT_ACK {
            return self.interrupt.acknowledge(value);
        }
        let mut core = self.lock();
        let Core {
            transport,
            device,
            memory,
            ..
        } = &mut *core;
        match transport.write(offset, value, memory) {
            Effect::Nothing => {}
            Effect::Reset => {
                device.reset();
                self.interrupt.clear();
            }
            // Invalid rings: the driver is notified as it would be later.
            Effect::Ready if transport.is_broken() => self.interrupt.raise(Reason::Config),
            Effect::Ready => {
                device.activate(transport.features());
                self.kick_all();
            }
            Effect::Notify(ring) => self.kick(ring),
        }
    }

    /// The kernel reports that a ring has new buffers.
    pub(super) fn on_kick(&self, ring: usize) {
        let _ = self.kicks.get(ring).map(EventFd::read);
        self.work(|device, rings| device.serve(ring, rings));
    }

    /// There is input from the host, or a request is finished.
    pub(super) fn on_source(&self) {
        let mut core = self.lock();
        match core.stage {
            Stage::Working if core.transport.is_working() => {
                self.run(&mut core, |device, rings| device.serve_source(rings));
            }
            Stage::Working | Stage::Draining | Stage::Parked => {
                let wanted = core.transport.is_working();
                self.run(&mut core, |device, rings| device.settle(rings, wanted));
            }
        }
        if core.device.in_flight() == 0 {
            self.quiet.notify_all();
        }
    }

    /// Shows the device to `watch`, which registers for input from the host.
    pub(super) fn with_device<T>(&self, watch: impl FnOnce(&dyn Device) -> T) -> T {
        watch(self.lock().device.as_ref())
    }

    /// Runs a task of the device, if its driver is ready and it has not been stopped.
    fn work(&self, task: impl FnOnce(&mut dyn Device, &mut Rings<'_>) -> Result<(), RingError>) {
        let mut core = self.lock();
        if core.stage == Stage::Working && core.transport.is_working() {
            self.run(&mut core, task);
        }
    }

    fn run(
        &self,
        core: &mut Core,
        task: impl FnOnce(&mut dyn Device, &mut Rings<'_>) -> Result<(), RingError>,
    ) {
        let mut rings = Rings {
            queues: core.transport.queues(),
            memory: &core.memory,
            interrupt: &self.interrupt,
            stop: &self.stop,
            kicks: &self.kicks,
        };
        if task(core.device.as_mut(), &mut rings).is_err() {
            self.interrupt.counters.error();
            core.transport.set_broken();
            self.interrupt.raise(Reason::Config);
        }
    }

    /// Takes no more requests from now on, if they take time.
    pub(super) fn quiesce(&self) {
        let mut core = self.lock();
        if core.stage == Stage::Working && core.device.takes_time() {
            self.stop.store(true, Ordering::Release);
            core.stage = Stage::Draining;
        }
    }

    /// Waits until nothing is in flight. The device takes no more requests.
    pub(super) fn drain(&self, deadline: Deadline) -> Result<(), VirtioError> {
        let busy = |core: &mut Core| core.device.in_flight() > 0;
        let waited = self
            .quiet
            .wait_timeout_while(self.lock(), deadline.left(), busy);
        let (core, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match core.device.in_flight() {
            0 => Ok(()),
            requests => Err(VirtioError::Busy {
                device: self.name.clone(),
                requests,
                limit: deadline.limit(),
            }),
        }
    }

    /// Parks the device. The vCPUs are already parked.
    pub(super) fn park(&self) {
        self.stop.store(true, Ordering::Release);
        self.lock().stage = Stage::Parked;
    }

    /// Syncs what the host would lose with its kernel. Nothing waits for it meanwhile.
    pub(super) fn sync(&self) -> Result<(), VirtioError> {
        let unsynced = self.lock().device.unsynced();
        let synced = unsynced.and_then(|file| file.map_or(Ok(()), |file| file.sync_data()));
        synced.map_err(|source| VirtioError::Sync {
            device: self.name.clone(),
            source,
        })
    }

    /// Continues, checking all rings and raising an interrupt: either may have been lost.
    pub(super) fn unpark(&self) {
        let mut core = self.lock();
        self.stop.store(false, Ordering::Release);
        core.stage = Stage::Working;
        if core.transport.is_broken() {
            self.interrupt.raise(Reason::Config);
        }
        if !core.transport.is_working() {
            return;
        }
        if std::mem::take(&mut core.restored) {
            self.run(&mut core, |device, rings| device.serve_restored(rings));
        }
        self.interrupt.raise(Reason::Used);
        self.kick_all();
    }

    /// Resets to the power-on state. The device is parked, and so are the vCPUs.
    pub(super) fn reset(&self) {
        self.write(VIRTIO_MMIO_STATUS, &0u32.to_le_bytes());
        self.lock().restored = false;
    }

    /// The state that crosses an update. The device is parked.
    pub(super) fn save(&self) -> VirtioStateV1 {
        let core = self.lock();
        VirtioStateV1 {
            slot: self.slot.index(),
            transport: core.transport.state(self.interrupt.status()),
            device: core.device.state(),
        }
    }

    /// The guest's requirements on another binary's device.
    pub(super) fn needs(&self) -> Needs {
        let core = self.lock();
        let readonly = matches!(
            core.device.state(),
            DeviceStateV1::Block(BlockStateV1 { readonly: true, .. })
        );
        Needs {
            features: needs::numbers(core.transport.agreed_features()),
            rings: core.device.queue_sizes().to_vec(),
            readonly,
        }
    }

    /// The device's open descriptors, named by slot and name. The device is parked.
    pub(super) fn lend(&self) -> Result<Vec<(String, OwnedFd)>, VirtioError> {
        let lent = self.lock().device.lend();
        let lent = lent.map_err(|source| VirtioError::Lend {
            device: self.name.clone(),
            source,
        })?;
        let named = |(name, fd)| (device_fd_name(self.slot.index(), name), fd);
        Ok(lent.into_iter().map(named).collect())
    }

    pub(super) fn findings(&self, carried: bool) -> Vec<Finding> {
        let mut findings = self.lock().device.findings(carried);
        for finding in &mut findings {
            finding.subject.clone_from(&self.name);
        }
        findings
    }

    pub(super) fn counts(&self) -> DeviceCounts {
        let io = self.lock().device.io();
        DeviceCounts {
            io: io.map(str::to_owned),
            ..self.interrupt.counters.read(&self.name)
        }
    }

    fn kick(&self, ring: usize) {
        // If the counter is full, the device wakes up anyway.
        let _ = self.kicks.get(ring).map(|kick| kick.write(1));
    }

    fn kick_all(&self) {
        (0..self.kicks.len()).for_each(|ring| self.kick(ring));
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
