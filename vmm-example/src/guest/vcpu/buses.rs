//! The destinations of vCPU accesses that exit.

use std::sync::Arc;

use crate::devices::pci::PciBus;
use crate::devices::ports::{PortBus, PortWrite};
use crate::devices::virtio::VirtioBus;

/// The destinations of vCPU accesses that exit.
#[derive(Clone, Debug)]
pub(crate) struct Buses {
    pub(crate) ports: Arc<PortBus>,
    pub(crate) virtio: Arc<VirtioBus>,
    pub(crate) pci: Arc<PciBus>,
}

impl Buses {
    pub(crate) fn new(ports: PortBus, virtio: VirtioBus, pci: PciBus) -> Self {
        Self {
            ports: Arc::new(ports),
            virtio: Arc::new(virtio),
            pci: Arc::new(pci),
        }
    }

    pub(super) fn read_port(&self, port: u16, data: &mut [u8]) {
        if !self.pci.read_port(port, data) {
            self.ports.read(port, data);
        }
    }

    pub(super) fn write_port(&self, port: u16, data: &[u8]) -> PortWrite {
        if self.pci.write_port(port, data) {
            PortWrite::Done
        } else {
            self.ports.write(port, data)
        }
    }

    pub(super) fn read_memory(&self, addr: u64, data: &mut [u8]) {
        if !self.virtio.read(addr, data) && !self.pci.read(addr, data) {
            // Unmapped addresses read as all ones.
            data.fill(0xff);
        }
    }

    pub(super) fn write_memory(&self, addr: u64, data: &[u8]) {
        if !self.pci.write(addr, data) {
            self.virtio.write(addr, data);
        }
    }
}
