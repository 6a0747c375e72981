//! Guest RAM as seen by devices: an iommufd with one I/O address space.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use iommufd_bindings::iommufd::{
    iommu_hwpt_alloc, iommu_ioas_alloc, iommu_ioas_map_file,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE,
};
use iommufd_ioctls::{IommuFd, IommufdError};
use rustix::io::Errno;

use super::{VfioError, sys};
use crate::error::warn;
use crate::memory::GuestRam;
use crate::spec::MemoryKind;

const PATH: &str = "/dev/iommu";

/// See the module's documentation. Device addresses are guest physical addresses.
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

    /// Maps all of guest RAM, which must be a memfd, of huge pages or not; this allocates and pins all of it.
    pub(crate) fn new(fd: OwnedFd, ram: &GuestRam) -> Result<Self, VfioError> {
        if ram.kind() == MemoryKind::GuestMemfd {
            return Err(VfioError::MemoryKind);
        }
        let calls = calls(&fd)?;
        let mut ioas = iommu_ioas_alloc {
            size: size::<iommu_ioas_alloc>(),
            ..Default::default()
        };
        calls
            .alloc_iommu_ioas(&mut ioas)
            .map_err(|error| failed("IOMMU_IOAS_ALLOC", PATH, &error))?;
        let ioas_id = ioas.out_ioas_id;
        for range in ram.ranges() {
            let map = iommu_ioas_map_file {
                size: size::<iommu_ioas_map_file>(),
                flags: iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
                    | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE
                    | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
                ioas_id,
                fd: ram.file().as_raw_fd(),
                start: range.file_offset,
                length: range.len,
                iova: range.gpa,
            };
            calls
                .map_iommu_ioas_file(&map)
                .map_err(|error| failed("IOMMU_IOAS_MAP_FILE", PATH, &error))?;
        }
        Ok(Self { fd, ioas_id })
    }

    /// Continues with an iommufd left by another process or kernel, including its mappings.
    pub(crate) fn adopt(fd: OwnedFd, ioas_id: u32) -> Self {
        // This only affects accounting: the mappings stay valid even if it fails.
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

    /// Allocates a page table with all mappings, for a device that is bound.
    pub(super) fn page_table(&self, device_id: u32, address: &str) -> Result<u32, VfioError> {
        let mut page_table = iommu_hwpt_alloc {
            size: size::<iommu_hwpt_alloc>(),
            dev_id: device_id,
            pt_id: self.ioas_id,
            ..Default::default()
        };
        calls(&self.fd)?
            .alloc_iommu_hwpt(&mut page_table)
            .map_err(|error| failed("IOMMU_HWPT_ALLOC", address, &error))?;
        Ok(page_table.out_hwpt_id)
    }

    /// A duplicate of its descriptor, for a box or another process.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, VfioError> {
        duplicate(&self.fd)
    }
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, VfioError> {
    fd.try_clone().map_err(|source| VfioError::Look {
        address: PATH.into(),
        source,
    })
}

/// The ioctls of iommufd-ioctls, which needs a file of its own.
fn calls(fd: &OwnedFd) -> Result<IommuFd, VfioError> {
    Ok(IommuFd::new_from_fd(File::from(duplicate(fd)?)))
}

/// The size of a structure, as stored in it.
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// A failed call, reported like all others with its name and its errno.
fn failed(what: &'static str, subject: &str, error: &IommufdError) -> VfioError {
    let errno = error
        .source()
        .and_then(|source| source.downcast_ref::<vmm_sys_util::errno::Error>());
    let errno = errno.map_or(Errno::IO, |errno| Errno::from_raw_os_error(errno.errno()));
    ioctl(what, subject, errno)
}

pub(super) fn ioctl(what: &'static str, subject: &str, source: rustix::io::Errno) -> VfioError {
    VfioError::Ioctl {
        what,
        subject: subject.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_fails_is_told_by_name_and_errno() {
        let calls = calls(&File::open("/dev/null").unwrap().into()).unwrap();
        let mut ioas = iommu_ioas_alloc::default();
        let error = calls.alloc_iommu_ioas(&mut ioas).unwrap_err();
        let VfioError::Ioctl { what, source, .. } = failed("IOMMU_IOAS_ALLOC", PATH, &error) else {
            panic!("not an ioctl")
        };
        assert_eq!((what, source), ("IOMMU_IOAS_ALLOC", Errno::NOTTY));
    }
}
