//! A passed-through device, bound to an iommufd and attached: its registers and its interrupts.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_REGION_INFO_FLAG_MMAP,
};
use vmm_sys_util::eventfd::EventFd;

use super::iommu::{Iommu, ioctl};
use super::spec::PciAddress;
use super::{VfioError, bars, config, sys};
use crate::memory::device::DeviceMapping;

/// The operations of a device that a guest's accesses lead to.
pub(super) trait Physical: fmt::Debug + Send + Sync {
    fn read_config(&self, offset: usize, data: &mut [u8]);
    fn write_config(&self, offset: usize, data: &[u8]);
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]);
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]);
    /// Connects each MSI-X vector to an event, and enables MSI-X.
    fn arm(&self, events: &[&EventFd]) -> Result<(), VfioError>;
    /// Disables MSI-X.
    fn disarm(&self) -> Result<(), VfioError>;
    /// Resets the device.
    fn reset(&self) -> Result<(), VfioError>;
    /// Another descriptor, for a box or another process.
    fn duplicate(&self) -> Result<OwnedFd, VfioError>;
}

/// The location of a region in the device's file.
#[derive(Clone, Copy, Debug, Default)]
struct Region {
    offset: u64,
    size: u64,
    mappable: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
    address: PciAddress,
    id: u32,
    page_table_id: u32,
    config: Region,
    bars: [Region; bars::COUNT as usize],
}

/// An opened device file that has not been bound yet.
#[derive(Debug)]
pub(super) struct Unbound {
    file: File,
    address: PciAddress,
}

impl Unbound {
    /// Opens a device's file; this does not touch the device.
    pub(super) fn open(cdev: &Path, address: PciAddress) -> Result<Self, VfioError> {
        let file = OpenOptions::new().read(true).write(true).open(cdev);
        let file = file.map_err(|source| VfioError::Open {
            path: cdev.display().to_string(),
            source,
        })?;
        Ok(Self { file, address })
    }

    pub(super) fn address(&self) -> PciAddress {
        self.address
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Binds the device, which resets it, and gives it access to the mappings of the iommufd.
    pub(super) fn attach(self, iommu: &Iommu) -> Result<Device, VfioError> {
        let Self { file, address } = self;
        let name = address.to_string();
        let id = sys::bind(file.as_fd(), iommu.fd()?).map_err(|source| match source {
            // iommufd_device_bind() returns this for no other reason.
            Errno::PERM => VfioError::NoInterruptRemapping {
                address: name.clone(),
            },
            // vfio_df_open() and vfio_device_block_group() return this for a device that is open.
            Errno::INVAL => VfioError::InUse {
                address: name.clone(),
            },
            _ => ioctl("VFIO_DEVICE_BIND_IOMMUFD", &name, source),
        })?;
        let page_table_id = iommu.page_table(id, &name)?;
        sys::attach(file.as_fd(), page_table_id)
            .map_err(|source| ioctl("VFIO_DEVICE_ATTACH_IOMMUFD_PT", &name, source))?;
        Device::adopt(file.into(), address, id, page_table_id)
    }
}

impl Device {
    /// Continues with a device that is already bound and attached.
    pub(super) fn adopt(
        fd: OwnedFd,
        address: PciAddress,
        id: u32,
        page_table_id: u32,
    ) -> Result<Self, VfioError> {
        let file = File::from(fd);
        let region = |index| {
            let info = sys::region_info(file.as_fd(), index).map_err(|source| {
                ioctl("VFIO_DEVICE_GET_REGION_INFO", &address.to_string(), source)
            })?;
            Ok::<_, VfioError>(Region {
                offset: info.offset,
                size: info.size,
                mappable: info.flags & VFIO_REGION_INFO_FLAG_MMAP != 0,
            })
        };
        let mut regions = [Region::default(); bars::COUNT as usize];
        for (to, index) in regions.iter_mut().zip(0..) {
            *to = region(index)?;
        }
        let config = region(VFIO_PCI_CONFIG_REGION_INDEX)?;
        Ok(Self {
            file,
            address,
            id,
            page_table_id,
            config,
            bars: regions,
        })
    }

    pub(super) fn address(&self) -> PciAddress {
        self.address
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn page_table_id(&self) -> u32 {
        self.page_table_id
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The size of a BAR in bytes; 0 if there is none.
    pub(super) fn bar_size(&self, bar: u8) -> u64 {
        self.bars
            .get(usize::from(bar))
            .map_or(0, |region| region.size)
    }

    /// The device's configuration space.
    pub(super) fn config(&self) -> Result<[u8; config::LEN], VfioError> {
        let mut bytes = [0; config::LEN];
        let read = self.file.read_exact_at(&mut bytes, self.config.offset);
        read.map_err(|source| VfioError::Look {
            address: self.address.to_string(),
            source,
        })?;
        Ok(bytes)
    }

    /// The number of MSI-X vectors that the kernel supports.
    pub(super) fn vectors(&self) -> Result<u32, VfioError> {
        sys::irq_count(self.file.as_fd(), VFIO_PCI_MSIX_IRQ_INDEX)
            .map_err(|source| self.ioctl("VFIO_DEVICE_GET_IRQ_INFO", source))
    }

    /// Maps the memory of a BAR; `None` if it can only be accessed by exits.
    pub(super) fn map_bar(&self, bar: u8) -> Result<Option<DeviceMapping>, VfioError> {
        match self.bars.get(usize::from(bar)) {
            Some(region) if region.mappable && region.size >= bars::PAGE => {
                let mapped = DeviceMapping::new(self.file.as_fd(), region.offset, region.size);
                mapped
                    .map(Some)
                    .map_err(|source| self.ioctl("mmap", source))
            }
            _ => Ok(None),
        }
    }

    fn ioctl(&self, what: &'static str, source: rustix::io::Errno) -> VfioError {
        ioctl(what, &self.address.to_string(), source)
    }

    /// The offset of an access in the device's file; `None` if it is not entirely inside the BAR.
    fn place(&self, bar: u8, offset: u64, len: usize) -> Option<u64> {
        let region = self.bars.get(usize::from(bar))?;
        let end = offset.checked_add(len as u64)?;
        (end <= region.size).then(|| region.offset + offset)
    }
}

impl Physical for Device {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let place = self.config.offset + offset as u64;
        if self.file.read_exact_at(data, place).is_err() {
            data.fill(0xff);
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        // What the kernel does not permit has no effect, as with any read-only register.
        let _ = self
            .file
            .write_all_at(data, self.config.offset + offset as u64);
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let place = self.place(bar, offset, data.len());
        if place.is_none_or(|place| self.file.read_exact_at(data, place).is_err()) {
            data.fill(0xff);
        }
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        if let Some(place) = self.place(bar, offset, data.len()) {
            // A device that does not respond does not respond to the guest either.
            let _ = self.file.write_all_at(data, place);
        }
    }

    fn arm(&self, events: &[&EventFd]) -> Result<(), VfioError> {
        let events: Vec<BorrowedFd<'_>> = events.iter().copied().map(sys::event_fd).collect();
        sys::set_triggers(self.file.as_fd(), VFIO_PCI_MSIX_IRQ_INDEX, &events)
            .map_err(|source| self.ioctl("VFIO_DEVICE_SET_IRQS", source))
    }

    fn disarm(&self) -> Result<(), VfioError> {
        sys::clear_triggers(self.file.as_fd(), VFIO_PCI_MSIX_IRQ_INDEX)
            .map_err(|source| self.ioctl("VFIO_DEVICE_SET_IRQS", source))
    }

    fn reset(&self) -> Result<(), VfioError> {
        sys::reset(self.file.as_fd()).map_err(|source| self.ioctl("VFIO_DEVICE_RESET", source))
    }

    fn duplicate(&self) -> Result<OwnedFd, VfioError> {
        let copy = self.file.as_fd().try_clone_to_owned();
        copy.map_err(|source| VfioError::Look {
            address: self.address.to_string(),
            source,
        })
    }
}
