//! What passed-through devices need of a VM: message routes, their memory, and registration.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use kvm_bindings::{
    KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI,
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_VFIO, kvm_irq_routing_entry,
};
use kvm_ioctls::DeviceFd;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use super::{KvmError, Vm, named, sys};
use crate::devices::pci::routes::{FIRST_MSI, Message};
use crate::memory::device::DeviceMapping;

/// Lines that are also connected to a PIC.
const PIC_LINES: u32 = 16;
/// Memory slots of RAM come first.
const FIRST_DEVICE_SLOT: u32 = 16;

impl Vm {
    /// Sets the routing table: the usual lines, and these messages.
    pub(crate) fn set_routes(&self, messages: &BTreeMap<u32, Message>) -> Result<(), KvmError> {
        let mut entries = lines();
        entries.extend(messages.iter().map(|(gsi, message)| msi(*gsi, *message)));
        let routing = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| errno::Error::new(libc::E2BIG))
            .and_then(|routing| self.fd.set_gsi_routing(&routing));
        named("KVM_SET_GSI_ROUTING", routing)
    }

    /// The inverse of [`register_irqfd`](Self::register_irqfd).
    pub(crate) fn unregister_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        named("KVM_IRQFD", self.fd.unregister_irqfd(event, gsi))
    }

    /// The VM's list of passed-through devices.
    pub(crate) fn create_vfio_registry(&self) -> Result<VfioRegistry, KvmError> {
        let mut device = kvm_create_device {
            type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
            ..Default::default()
        };
        Ok(VfioRegistry(named(
            "KVM_CREATE_DEVICE",
            self.fd.create_device(&mut device),
        )?))
    }
}

/// The devices registered with KVM, which queries their requirements on memory caching.
#[derive(Debug)]
pub(crate) struct VfioRegistry(DeviceFd);

impl VfioRegistry {
    /// Adds a device, which KVM keeps open from now on.
    pub(crate) fn add(&self, device: BorrowedFd<'_>) -> Result<(), KvmError> {
        let fd = device.as_raw_fd();
        let attr = kvm_device_attr {
            group: KVM_DEV_VFIO_FILE,
            attr: KVM_DEV_VFIO_FILE_ADD.into(),
            addr: std::ptr::from_ref(&fd) as u64,
            flags: 0,
        };
        named("KVM_DEV_VFIO_FILE_ADD", self.0.set_device_attr(&attr))
    }
}

/// Pages of a device that the guest accesses without an exit, for the lifetime of this value.
#[derive(Debug)]
pub(crate) struct DeviceSlot {
    vm: Arc<Vm>,
    slot: u32,
    /// The mapping whose address KVM has.
    _mapping: Arc<DeviceMapping>,
}

impl DeviceSlot {
    /// Maps `len` bytes of a mapping, starting at `offset`, at a guest address. `number` must be
    /// unique in this VM.
    pub(crate) fn new(
        vm: &Arc<Vm>,
        number: u32,
        gpa: u64,
        mapping: &Arc<DeviceMapping>,
        offset: u64,
        len: u64,
    ) -> Result<Self, KvmError> {
        let slot = FIRST_DEVICE_SLOT + number;
        let set = sys::set_device_memory(&vm.fd, slot, gpa, mapping, offset, len);
        named("KVM_SET_USER_MEMORY_REGION2", set)?;
        Ok(Self {
            vm: vm.clone(),
            slot,
            _mapping: mapping.clone(),
        })
    }
}

impl Drop for DeviceSlot {
    /// Before the mapping is dropped, because its addresses may then be reused.
    fn drop(&mut self) {
        // KVM can always delete an existing slot.
        let _ = sys::delete_memory(&self.vm.fd, self.slot);
    }
}

/// KVM's default routes.
fn lines() -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::new();
    for gsi in 0..FIRST_MSI {
        if gsi < PIC_LINES {
            let chip = if gsi < 8 {
                KVM_IRQCHIP_PIC_MASTER
            } else {
                KVM_IRQCHIP_PIC_SLAVE
            };
            entries.push(line(gsi, chip, gsi % 8));
        }
        entries.push(line(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    }
    entries
}

fn line(gsi: u32, chip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    entry
}

fn msi(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wired_as_kvm_wires_them() {
        let entries = lines();
        assert_eq!(entries.len(), 24 + 16);
        assert_eq!(entries.iter().filter(|entry| entry.gsi == 9).count(), 2);
        assert_eq!(entries.last().map(|entry| entry.gsi), Some(23));
    }
}
