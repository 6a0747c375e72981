//! All virtio devices of a machine.

use vm_memory::GuestMemoryMmap;
use vmm_fdbox::Finding;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::counters::DeviceCounts;
use super::live::LiveDevice;
use super::slot::{QUEUE_NOTIFY, Slot};
use super::state::VirtioStateV1;
use super::worker::Worker;
use super::{Opened, VirtioError};
use crate::kvm::Vm;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct VirtioBus {
    workers: Vec<Worker>,
}

impl VirtioBus {
    /// Puts devices into a machine, parked: interrupts and kicks go through the kernel.
    pub(crate) fn new(
        vm: &Vm,
        memory: &GuestMemoryMmap,
        devices: Vec<Opened>,
    ) -> Result<Self, VirtioError> {
        let mut workers: Vec<Worker> = Vec::with_capacity(devices.len());
        for opened in devices {
            let (kind, slot) = (opened.device.kind(), opened.slot);
            let number = workers
                .iter()
                .filter(|worker| worker.device.with_device(|device| device.kind()) == kind)
                .count();
            let line = EventFd::new(EFD_NONBLOCK).map_err(VirtioError::Event)?;
            vm.register_irqfd(&line, slot.gsi())?;
            let device = LiveDevice::new(format!("{kind}{number}"), opened, memory.clone(), line)?;
            for (ring, kick) in (0u32..).zip(&device.kicks) {
                vm.register_ioeventfd(kick, slot.base() + QUEUE_NOTIFY, ring)?;
            }
            workers.push(Worker::start(device)?);
        }
        Ok(Self { workers })
    }

    /// A vCPU reads from an address; false if no device is there.
    pub(crate) fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        self.find(addr)
            .map(|(device, offset)| device.read(offset, data))
            .is_some()
    }

    /// A vCPU writes to an address.
    pub(crate) fn write(&self, addr: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(addr) {
            device.write(offset, data);
        }
    }

    fn find(&self, addr: u64) -> Option<(&LiveDevice, u32)> {
        let (slot, offset) = Slot::at(addr)?;
        let device = self.devices().find(|device| device.slot == slot)?;
        Some((device, u32::try_from(offset).ok()?))
    }

    /// Finishes what devices have at hand and stops them. The vCPUs are parked already.
    pub(crate) fn park(&self) {
        self.devices().for_each(LiveDevice::park);
    }

    /// Lets the devices work.
    pub(crate) fn unpark(&self) {
        self.devices().for_each(LiveDevice::unpark);
    }

    /// The state of all devices, in the order of their slots. They are parked.
    pub(crate) fn save(&self) -> Result<Vec<VirtioStateV1>, VirtioError> {
        self.devices().map(LiveDevice::save).collect()
    }

    /// What an operator should know before an update.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.devices().flat_map(LiveDevice::findings).collect()
    }

    pub(crate) fn counts(&self) -> Vec<DeviceCounts> {
        self.devices().map(LiveDevice::counts).collect()
    }

    fn devices(&self) -> impl Iterator<Item = &LiveDevice> {
        self.workers.iter().map(|worker| worker.device.as_ref())
    }
}
