//! The functions of a machine, and their accesses by vCPUs.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_fdbox::Finding;

use super::bridge;
use super::config_port::{self, Address, Register};
use super::routes::{InterruptLines, Routes};
use super::slot::PciSlot;
use super::state::{self, PciBusStateV1, PciState};
use crate::devices::vfio::spec::PciAddress;
use crate::devices::vfio::{self, Board, Claimed, Function, Handed, Iommu, Kept, VfioError};
use crate::kvm::Vm;
use crate::kvm::passthrough::VfioRegistry;
use crate::memory::GuestRam;

/// A passed-through device, as shown to an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostDeviceStatus {
    /// Its name in a box, such as `vfio0`.
    pub(crate) device: String,
    /// Its PCI address in the host, such as `0000:01:00.0`.
    pub(crate) address: String,
}

/// The bus of a machine that has one.
#[derive(Debug)]
struct Wired {
    functions: Vec<Function>,
    iommu: Iommu,
    /// KVM forgets the devices when this is dropped.
    _registry: VfioRegistry,
}

/// See the module's documentation. A machine without devices on the bus has no bus.
#[derive(Debug, Default)]
pub(crate) struct PciBus {
    address: Mutex<Address>,
    wired: Option<Wired>,
}

impl PciBus {
    /// Attaches devices to a new guest, parked.
    pub(crate) fn new(vm: &Arc<Vm>, ram: &GuestRam, claimed: Claimed) -> Result<Self, VfioError> {
        let Claimed { devices, iommufd } = claimed;
        let Some(iommufd) = iommufd else {
            return Ok(Self::default());
        };
        let iommu = Iommu::new(iommufd, ram)?;
        Self::wire(vm, Address::default(), |board| {
            let functions = vfio::attach(devices, &iommu, board)?;
            Ok((iommu, functions))
        })
    }

    /// Continues with the devices of a saved guest, parked.
    pub(crate) fn restore(
        vm: &Arc<Vm>,
        state: Option<&PciState>,
        handed: Handed,
    ) -> Result<Self, VfioError> {
        let Some(state) = state else {
            return Ok(Self::default());
        };
        let address = Address::new(state.bus.config_address);
        Self::wire(vm, address, |board| vfio::adopt(state, handed, board))
    }

    fn wire(
        vm: &Arc<Vm>,
        address: Address,
        connect: impl FnOnce(&Board<'_>) -> Result<(Iommu, Vec<Function>), VfioError>,
    ) -> Result<Self, VfioError> {
        let registry = vm.create_vfio_registry().map_err(VfioError::Registry)?;
        let lines: Arc<dyn InterruptLines> = Arc::new(Routes::new(vm.clone()));
        let board = Board {
            vm,
            registry: &registry,
            lines: &lines,
        };
        let (iommu, functions) = connect(&board)?;
        Ok(Self {
            address: Mutex::new(address),
            wired: Some(Wired {
                functions,
                iommu,
                _registry: registry,
            }),
        })
    }

    /// Handles a port read; false if the port is not the bus's.
    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) -> bool {
        if self.wired.is_none() || !is_ours(port, data.len()) {
            return false;
        }
        let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
        data.fill(0xff);
        match (port, &mut *data) {
            (config_port::ADDRESS, [_, _, _, _]) => {
                data.copy_from_slice(&address.value().to_le_bytes());
            }
            _ => {
                if let Some(register) = address.register(port) {
                    self.read_config(register, data);
                }
            }
        }
        true
    }

    /// Handles a port write; false if the port is not the bus's.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> bool {
        if self.wired.is_none() || !is_ours(port, data.len()) {
            return false;
        }
        let mut address = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        match (port, <[u8; 4]>::try_from(data)) {
            (config_port::ADDRESS, Ok(word)) => *address = Address::new(u32::from_le_bytes(word)),
            _ => {
                if let Some(register) = address.register(port)
                    && let Some(function) = self.function(register)
                {
                    drop(address);
                    function.write_config(register.offset, data);
                }
            }
        }
        true
    }

    fn read_config(&self, register: Register, data: &mut [u8]) {
        match (register.device, register.function) {
            (0, 0) => bridge::read(register.offset, data),
            _ => {
                if let Some(function) = self.function(register) {
                    function.read_config(register.offset, data);
                }
            }
        }
    }

    /// Handles a memory read; false if there is no device at the address.
    pub(crate) fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        self.functions()
            .any(|function| function.read_memory(addr, data))
    }

    /// Handles a memory write; false if there is no device at the address.
    pub(crate) fn write(&self, addr: u64, data: &[u8]) -> bool {
        self.functions()
            .any(|function| function.write_memory(addr, data))
    }

    /// Resets bus and devices to their power-on state. All are parked.
    pub(crate) fn reset(&self) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Address::default();
        self.functions().for_each(Function::reset);
    }

    /// Whether the machine has a bus.
    pub(crate) fn is_there(&self) -> bool {
        self.wired.is_some()
    }

    /// Holds interrupts back. The vCPUs are already parked.
    pub(crate) fn park(&self) {
        self.functions().for_each(Function::park);
    }

    /// Lets interrupts through, and raises each vector once.
    pub(crate) fn unpark(&self) {
        self.functions().for_each(Function::unpark);
    }

    /// Disables the devices' interrupts, before the host goes away. The devices are parked.
    pub(crate) fn disarm(&self) -> Result<(), VfioError> {
        self.functions().try_for_each(Function::disarm)
    }

    /// The state that crosses an update besides the devices; `None` without a bus. They are parked.
    pub(crate) fn save(&self) -> Option<PciState> {
        let wired = self.wired.as_ref()?;
        let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
        Some(PciState {
            bus: PciBusStateV1 {
                config_address: address.value(),
                ioas_id: wired.iommu.ioas_id(),
            },
            devices: self.functions().map(Function::save).collect(),
        })
    }

    /// The sections that their state would have.
    pub(crate) fn sections(&self) -> Vec<&'static str> {
        let wired = self.wired.as_ref();
        wired.map_or_else(Vec::new, |wired| {
            state::sections(wired.functions.len()).collect()
        })
    }

    /// The maximum size of these sections in bytes.
    pub(crate) fn state_capacity(&self) -> usize {
        match self.wired {
            Some(_) => state::capacity(self.functions().map(Function::vectors)),
            None => 0,
        }
    }

    /// Duplicates of what the devices use and of the devices, by name and in this order: for a box,
    /// or for another process.
    pub(crate) fn lend(&self) -> Result<Vec<(String, OwnedFd)>, VfioError> {
        let Some(wired) = &self.wired else {
            return Ok(Vec::new());
        };
        let mut lent = wired.iommu.lend()?;
        for function in &wired.functions {
            let name = vfio::device_name(function.slot().index());
            lent.push((name, function.duplicate()?));
        }
        Ok(lent)
    }

    /// Reasons why the devices cannot go through a box of a kernel that keeps the kinds in `kept`.
    pub(crate) fn findings(&self, kept: Kept) -> Vec<Finding> {
        let devices = self.functions().map(Function::address);
        devices
            .filter_map(|address| vfio::unkept(address, kept))
            .collect()
    }

    /// Whether interrupts of the devices can reach the guest in a lifeboat.
    pub(crate) fn has_messages(&self) -> bool {
        let wired = self.wired.as_ref();
        wired.is_none_or(|wired| wired.iommu.has_messages())
    }

    /// The devices' addresses in the host.
    pub(crate) fn addresses(&self) -> Vec<PciAddress> {
        self.functions().map(Function::address).collect()
    }

    /// The devices, as shown to an operator.
    pub(crate) fn status(&self) -> Vec<HostDeviceStatus> {
        let status = |function: &Function| HostDeviceStatus {
            device: vfio::device_name(function.slot().index()),
            address: function.address().to_string(),
        };
        self.functions().map(status).collect()
    }

    fn function(&self, register: Register) -> Option<&Function> {
        let slot = PciSlot::of_device(register.device).filter(|_| register.function == 0)?;
        self.functions().find(|function| function.slot() == slot)
    }

    fn functions(&self) -> impl Iterator<Item = &Function> {
        self.wired.iter().flat_map(|wired| &wired.functions)
    }
}

/// Whether an access is to one of the bus's ports; one that crosses the end of a register is not.
fn is_ours(port: u16, len: usize) -> bool {
    let ports = config_port::ADDRESS..config_port::ADDRESS + u16::from(config_port::PORTS);
    ports.contains(&port) && matches!(len, 1 | 2 | 4) && usize::from(port) % len == 0
}

/// The names of a guest's descriptors in its box, dependencies first. A guest of an older VMM has no
/// [`vfio::MESSAGES`].
pub(crate) fn names(state: Option<&PciState>) -> Vec<String> {
    let Some(state) = state else {
        return Vec::new();
    };
    let devices = state.devices.iter();
    [vfio::MESSAGES.into(), vfio::IOMMUFD.into()]
        .into_iter()
        .chain(devices.map(|device| vfio::device_name(device.slot)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_without_devices_has_no_bus() {
        let bus = PciBus::default();
        assert!(!bus.read_port(config_port::ADDRESS, &mut [0; 4]));
        assert!(!bus.write_port(config_port::DATA, &[0; 4]));
        assert!(!bus.read(0xe000_0000, &mut [0; 4]));
        assert_eq!((bus.save(), bus.sections()), (None, Vec::new()));
        assert_eq!(bus.state_capacity(), 0);
        assert!(names(None).is_empty() && bus.status().is_empty());
    }

    #[test]
    fn the_ports_of_the_bus_are_eight() {
        assert!(is_ours(0xcf8, 4) && is_ours(0xcfb, 1) && is_ours(0xcfe, 2));
        assert!(!is_ours(0xcfd, 2) && !is_ours(0xcfe, 4), "not aligned");
        assert!(!is_ours(0xcf7, 1) && !is_ours(0xd00, 4));
    }
}
