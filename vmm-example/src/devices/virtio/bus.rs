//! All virtio devices of a machine.

use std::os::fd::OwnedFd;

use vm_memory::GuestMemoryMmap;
use vmm_fdbox::{Deadline, Finding};

use super::counters::DeviceCounts;
use super::live::LiveDevice;
use super::needs::Needs;
use super::prepared_slot::{self, PreparedSlot};
use super::slot::{Slot, SlotLayout};
use super::state::{VirtioStateV1, sections};
use super::worker::Worker;
use super::{Opened, VirtioError};
use crate::kvm::Vm;
use crate::metrics::{Counted, Metrics};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct VirtioBus {
    workers: Vec<Worker>,
}

impl VirtioBus {
    /// Adds devices to a machine, parked: interrupts and notifications go through the kernel.
    /// `ready` are slots that were prepared in advance.
    pub(crate) fn new(
        vm: &Vm,
        memory: &GuestMemoryMmap,
        devices: Vec<Opened>,
        mut ready: Vec<PreparedSlot>,
    ) -> Result<Self, VirtioError> {
        let mut workers: Vec<Worker> = Vec::with_capacity(devices.len());
        for opened in devices {
            let kind = opened.device.kind();
            let number = workers
                .iter()
                .filter(|worker| worker.device.with_device(|device| device.kind()) == kind)
                .count();
            let layout = opened.layout();
            let prepared = match prepared_slot::take(&mut ready, layout)? {
                Some(prepared) => prepared,
                None => PreparedSlot::prepare(vm, layout)?,
            };
            let PreparedSlot {
                line,
                kicks,
                worker,
                ..
            } = prepared;
            let name = format!("{kind}{number}");
            let device = LiveDevice::new(name, opened, memory.clone(), line, kicks)?;
            workers.push(worker.take(device));
        }
        Ok(Self { workers })
    }

    /// Handles a memory read; false if there is no device at the address.
    pub(crate) fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        self.find(addr)
            .map(|(device, offset)| device.read(offset, data))
            .is_some()
    }

    /// Handles a memory write.
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

    /// Makes devices take no more requests, and waits until none is in flight. The vCPUs run.
    pub(crate) fn quiesce(&self, deadline: Deadline) -> Result<(), VirtioError> {
        self.devices().for_each(LiveDevice::quiesce);
        self.devices().try_for_each(|device| device.drain(deadline))
    }

    /// Syncs what the host would lose with its kernel.
    pub(crate) fn sync(&self) -> Result<(), VirtioError> {
        self.devices().try_for_each(LiveDevice::sync)
    }

    /// Parks the devices. The vCPUs are already parked.
    pub(crate) fn park(&self) {
        self.devices().for_each(LiveDevice::park);
    }

    /// Lets the devices work.
    pub(crate) fn unpark(&self) {
        self.workers.iter().for_each(Worker::unpark);
    }

    /// Resets all devices to their power-on state. They are parked, and so are the vCPUs.
    pub(crate) fn reset(&self) {
        self.devices().for_each(LiveDevice::reset);
    }

    /// Their slots.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.devices().map(|device| device.slot).collect()
    }

    /// The state of all devices, in the order of their slots. They are parked.
    pub(crate) fn save(&self) -> Vec<VirtioStateV1> {
        self.devices().map(LiveDevice::save).collect()
    }

    /// Their open descriptors, by name, for another process of this host. They are parked.
    pub(crate) fn lend(&self) -> Result<Vec<(String, OwnedFd)>, VirtioError> {
        let mut lent = Vec::new();
        for device in self.devices() {
            lent.extend(device.lend()?);
        }
        Ok(lent)
    }

    /// Their slots and numbers of rings.
    pub(crate) fn layouts(&self) -> Vec<SlotLayout> {
        self.devices().map(LiveDevice::layout).collect()
    }

    /// The sections that their state would have.
    pub(crate) fn sections(&self) -> Vec<&'static str> {
        let kinds = self
            .devices()
            .map(|device| device.with_device(|device| device.kind()));
        sections(kinds).into_iter().flatten().collect()
    }

    /// The requirements of the guest on another binary's devices, each with its section.
    pub(crate) fn needs(&self) -> Vec<(&'static str, Needs)> {
        let sections = self.sections().into_iter();
        sections
            .zip(self.devices().map(LiveDevice::needs))
            .collect()
    }

    /// Findings for an operator before an update. `carried`: their open descriptors are handed
    /// over.
    pub(crate) fn findings(&self, carried: bool) -> Vec<Finding> {
        self.devices()
            .flat_map(|device| device.findings(carried))
            .collect()
    }

    pub(crate) fn counts(&self) -> Vec<DeviceCounts> {
        self.devices().map(LiveDevice::counts).collect()
    }

    fn devices(&self) -> impl Iterator<Item = &LiveDevice> {
        self.workers.iter().map(|worker| worker.device.as_ref())
    }
}

impl Counted for VirtioBus {
    fn count(&self, metrics: &mut Metrics) {
        let counts = self.counts();
        if counts.is_empty() {
            return;
        }
        let labels: Vec<_> = counts
            .iter()
            .map(|counts| [("device", counts.device.as_str())])
            .collect();
        let mut family = |name, help, of: fn(&DeviceCounts) -> u64| {
            let samples: Vec<_> = labels
                .iter()
                .zip(&counts)
                .map(|(labels, counts)| (&labels[..], of(counts)))
                .collect();
            metrics.counter(name, help, &samples);
        };
        family("virtio_requests_total", "Requests of a device.", |counts| {
            counts.requests
        });
        family(
            "virtio_bytes_total",
            "Bytes that went in or out of a device, headers apart.",
            |counts| counts.bytes,
        );
        family(
            "virtio_errors_total",
            "Requests that failed and packets that were dropped.",
            |counts| counts.errors,
        );
        family(
            "virtio_interrupts_total",
            "Interrupts that a device raised.",
            |counts| counts.interrupts,
        );
    }
}
