//! Guest RAM, as devices may reach it: an iommufd with one I/O address space.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{VfioError, sys};
use crate::error::warn;
use crate::memory::GuestRam;
use crate::spec::MemoryKind;

const PATH: &str = "/dev/iommu";

/// See the module's documentation. Addresses of devices are the guest's physical addresses.
#[derive(Debug)]
pub(crate) struct Iommu {
    fd: OwnedFd,
    ioas_id: u32,
}

impl Iommu {
    /// Opens an iommufd.
    pub(super) fn open() -> Result<OwnedFd, VfioError> {
        let fd = OpenOptions::new().read(true).write(true).open(PATH);
        let fd = fd.map_err(|source| VfioError::Open {
            path: PATH.into(),
            source,
        })?;
        Ok(fd.into())
    }

    /// Maps all of guest RAM, which must be a memfd: all of it is allocated and pinned by this.
    pub(crate) fn new(fd: OwnedFd, ram: &GuestRam) -> Result<Self, VfioError> {
        if ram.kind() != MemoryKind::Memfd {
            return Err(VfioError::MemoryKind);
        }
        let failed = |what| move |source| ioctl(what, PATH, source);
        let ioas_id = sys::alloc_ioas(fd.as_fd()).map_err(failed("IOMMU_IOAS_ALLOC"))?;
        for range in ram.ranges() {
            let (file, start) = (ram.file(), range.file_offset);
            sys::map_file(fd.as_fd(), ioas_id, file, start, range.len, range.gpa)
                .map_err(failed("IOMMU_IOAS_MAP_FILE"))?;
        }
        Ok(Self { fd, ioas_id })
    }

    /// Goes on with an iommufd that another process or kernel has left, mappings and all.
    pub(crate) fn adopt(fd: OwnedFd, ioas_id: u32) -> Self {
        // Only the accounting is at stake: the mappings hold whatever this says.
        if let Err(error) = sys::change_process(fd.as_fd()) {
            warn(&format!(
                "Pinned guest RAM stays on the account of the VMM before this one: {error}"
            ));
        }
        Self { fd, ioas_id }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn ioas_id(&self) -> u32 {
        self.ioas_id
    }

    /// A page table with all mappings in it, for a device that is bound.
    pub(super) fn page_table(&self, device_id: u32, address: &str) -> Result<u32, VfioError> {
        sys::alloc_hwpt(self.fd(), device_id, self.ioas_id)
            .map_err(|source| ioctl("IOMMU_HWPT_ALLOC", address, source))
    }

    /// Another descriptor, for a box or another process.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, VfioError> {
        self.fd.try_clone().map_err(|source| VfioError::Look {
            address: PATH.into(),
            source,
        })
    }
}

pub(super) fn ioctl(what: &'static str, subject: &str, source: rustix::io::Errno) -> VfioError {
    VfioError::Ioctl {
        what,
        subject: subject.into(),
        source,
    }
}
