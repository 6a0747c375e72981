//! Passed-through devices of the host, through VFIO and iommufd.
//!
//! | module | content |
//! |---|---|
//! | `spec`, `host` | the requested device, and its description in sysfs |
//! | `sys` | the ioctls |
//! | `iommu` | guest RAM as seen by the device |
//! | `device` | the device: its regions, its interrupts, bound and attached |
//! | `config`, `bars`, `msix` | what the guest sees of it; plain values |
//! | `messages`, `lent` | its interrupts as memory, and the device in the lifeboat |
//! | `windows`, `vectors` | its memory and its interrupts, connected to the VM |
//! | `function` | all of it together, as a function on the PCI bus |
//! | `open` | opening a device for a new guest, or from a state |
//! | `findings`, `facts` | what prevents an update, for the devices of a guest and of the host |
//! | `services` | how the host translates for a device: ATS, PRI, PASID |
//! | `state` | the state that crosses an update |
//!
//! The device is opened by its own file in /dev/vfio/devices and bound to an iommufd; there are no
//! groups and no containers. Guest RAM is mapped by its memfd (`IOMMU_IOAS_MAP_FILE`), so that the
//! mapping does not belong to this process and a box can keep it. Nothing but guest RAM is mapped:
//! a device cannot reach another device. The page table is allocated with its mappings and attached
//! afterwards: a device that is already running never sees an empty one.
//!
//! Memory decoding stays enabled in the device itself and interrupt lines stay disabled: the
//! guest's settings of those bits, and of its BAR addresses, take effect in this program only.
//! Power states are emulated: the device stays in D0.
//!
//! An update parks the vCPUs and then the interrupts, which accumulate in their events. The device
//! is never stopped: it keeps writing to guest memory. When the guest runs again, each enabled
//! vector is raised once, for whatever happened meanwhile.

mod bars;
mod config;
mod device;
pub(crate) mod facts;
mod findings;
mod function;
mod host;
mod iommu;
mod lent;
mod messages;
mod msix;
mod open;
mod services;
pub(crate) mod spec;
mod state;
mod sys;
#[cfg(test)]
mod testing;
mod vectors;
mod windows;

use std::io;

use rustix::io::Errno;
use thiserror::Error;

use crate::kvm::KvmError;

pub(crate) use findings::{Kept, look, unkept};
pub(crate) use function::Function;
pub(crate) use iommu::{IOMMUFD, Iommu};
pub(crate) use messages::MESSAGES;
pub(crate) use open::{Board, Claimed, Handed, PassedFds, adopt, attach, claim, device_name};
pub(crate) use state::VfioStateV1;
#[cfg(test)]
pub(crate) use state::sample;

/// Why a guest cannot have a device.
#[derive(Debug, Error)]
pub(crate) enum VfioError {
    #[error(
        "A guest can have at most {} devices of the host",
        crate::devices::pci::slot::MAX_DEVICES
    )]
    TooMany,
    #[error("There is no PCI device {address}: `ls /sys/bus/pci/devices` shows them")]
    NoDevice { address: String },
    #[error(
        "{address} is not protected by an IOMMU: switch it on in the firmware, and boot with \
         intel_iommu=on or amd_iommu=on"
    )]
    NoIommu { address: String },
    #[error(
        "{address} is bound to {driver} instead of vfio-pci: echo vfio-pci > \
         /sys/bus/pci/devices/{address}/driver_override, unbind it, and echo {address} > \
         /sys/bus/pci/drivers_probe"
    )]
    OtherDriver { address: String, driver: String },
    #[error("{address} has no file in /dev/vfio/devices: it takes CONFIG_VFIO_DEVICE_CDEV")]
    NoCdev { address: String },
    #[error("{address} was given twice")]
    Twice { address: String },
    #[error("Cannot open {path}")]
    Open { path: String, source: io::Error },
    #[error("Cannot look at {address}")]
    Look { address: String, source: io::Error },
    #[error(
        "A device of the host cannot reach guest_memfd (iommufd maps memfd by file only): use \
         --memory kind=memfd"
    )]
    MemoryKind,
    #[error("{what} failed for {subject}")]
    Ioctl {
        what: &'static str,
        subject: String,
        source: Errno,
    },
    #[error(
        "{address} cannot be given to a guest safely: this host's IOMMU does not remap interrupts; \
         switch that on, in the firmware or with the kernel's intremap=on"
    )]
    NoInterruptRemapping { address: String },
    #[error("{address} cannot be bound to an iommufd: another VMM has it or its group open")]
    InUse { address: String },
    #[error("{address} is no ordinary PCI function, but of header type {kind}")]
    HeaderType { address: String, kind: u8 },
    #[error("{address} has no MSI-X: interrupt lines and MSI are not supported")]
    NoMsix { address: String },
    #[error("{address} has its MSI-X tables outside of its memory")]
    MsixOutsideBar { address: String },
    #[error("The kernel offers {available} of the {vectors} MSI-X vectors of {address}")]
    FewVectors {
        address: String,
        available: u32,
        vectors: u16,
    },
    #[error("{address} has {size} bytes of memory at BAR {bar}: there is no room for them")]
    NoRoom { address: String, bar: u8, size: u64 },
    #[error("{address} is not as it was when the guest got it: {what}")]
    Changed { address: String, what: String },
    #[error("{what} is not there: another VMM must hand it over, or a box")]
    NotHandedOver { what: String },
    #[error("Cannot create the file for the messages of devices")]
    Messages(#[source] io::Error),
    #[error("Cannot map the file for the messages of devices")]
    MapMessages(#[source] vm_memory::mmap::MmapRegionError),
    #[error("{address} cannot be reset in the lifeboat")]
    ResetInLifeboat { address: String },
    #[error("Cannot create an event of {address}")]
    Event { address: String, source: io::Error },
    #[error("KVM does not accept devices of the host")]
    Registry(#[source] KvmError),
    #[error("Cannot connect {address} to the guest")]
    Kvm { address: String, source: KvmError },
}
