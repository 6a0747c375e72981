//! Putting a guest together.

use std::sync::Arc;

use kvm_ioctls::VcpuFd;

use super::{Machine, MachineError};
use crate::console::Console;
use crate::devices::PortBus;
use crate::kvm::Vm;
use crate::kvm::vcpu::StateShape;
use crate::memory::GuestRam;
use crate::pci::PciBus;
use crate::vcpu::{Buses, OnEnd, Vcpus};
use crate::virtio::VirtioBus;

/// What both ways of building a guest end with.
pub(super) struct Parts {
    pub(super) vm: Arc<Vm>,
    pub(super) ram: GuestRam,
    pub(super) shape: StateShape,
    pub(super) fds: Vec<VcpuFd>,
    pub(super) host_tsc_khz: u32,
    pub(super) virtio: VirtioBus,
    pub(super) pci: PciBus,
    pub(super) bus: PortBus,
    pub(super) name: String,
}

impl Parts {
    /// Starts the vCPUs' threads, parked.
    pub(super) fn assemble(
        self,
        console: Arc<Console>,
        end: &OnEnd,
    ) -> Result<Machine, MachineError> {
        let Self {
            vm,
            ram,
            shape,
            fds,
            host_tsc_khz,
            virtio,
            pci,
            bus,
            name,
        } = self;
        let buses = Buses {
            ports: Arc::new(bus),
            virtio: Arc::new(virtio),
            pci: Arc::new(pci),
        };
        let vcpus = Vcpus::spawn(fds, &buses, end)?;
        let Buses {
            ports: bus,
            virtio,
            pci,
        } = buses;
        Ok(Machine {
            vcpus,
            virtio,
            pci,
            bus,
            console,
            vm,
            ram,
            shape,
            host_tsc_khz,
            name,
        })
    }
}
