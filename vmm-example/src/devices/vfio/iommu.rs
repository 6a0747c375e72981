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

use super::messages::{self, Messages};
use super::{VfioError, sys};
use crate::error::warn;
use crate::memory::GuestRam;
use crate::memory::layout::RamRange;
use crate::spec::MemoryKind;

/// The name of the iommufd in a box and among the descriptors passed to another process.
pub(crate) const IOMMUFD: &str = "iommufd";

const PATH: &str = "/dev/iommu";

/// See the module's documentation. Device addresses are guest physical addresses.
#[derive(Debug)]
pub(crate) struct Iommu {
    /// `None` in the lifeboat: it is the host's.
    fd: Option<OwnedFd>,
    ioas_id: u32,
    /// The file of [`messages`], which is mapped as well. `None` if the guest is of an older VMM.
    messages: Option<OwnedFd>,
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
        let calls = calls(fd.as_fd())?;
        let mut ioas = iommu_ioas_alloc {
            size: size::<iommu_ioas_alloc>(),
            ..Default::default()
        };
        calls
            .alloc_iommu_ioas(&mut ioas)
            .map_err(|error| failed("IOMMU_IOAS_ALLOC", PATH, &error))?;
        let ioas_id = ioas.out_ioas_id;
        let messages = messages::create()?;
        let of_messages = RamRange {
            gpa: messages::IOVA,
            len: messages::LEN,
            file_offset: 0,
        };
        let ranges = ram.ranges().iter().map(|range| (ram.file(), range));
        for (file, range) in ranges.chain([(messages.as_fd(), &of_messages)]) {
            let map = iommu_ioas_map_file {
                size: size::<iommu_ioas_map_file>(),
                flags: iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
                    | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE
                    | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
                ioas_id,
                fd: file.as_raw_fd(),
                start: range.file_offset,
                length: range.len,
                iova: range.gpa,
            };
            calls
                .map_iommu_ioas_file(&map)
                .map_err(|error| failed("IOMMU_IOAS_MAP_FILE", PATH, &error))?;
        }
        Ok(Self {
            fd: Some(fd),
            ioas_id,
            messages: Some(messages),
        })
    }

    /// In the lifeboat: what the host's iommufd has mapped.
    pub(super) fn of_host(ioas_id: u32, messages: OwnedFd) -> Self {
        Self {
            fd: None,
            ioas_id,
            messages: Some(messages),
        }
    }

    /// Continues with an iommufd left by another process or kernel, including its mappings.
    pub(super) fn adopt(fd: OwnedFd, ioas_id: u32, messages: Option<OwnedFd>) -> Self {
        // This only affects accounting: the mappings stay valid even if it fails.
        if let Err(error) = sys::change_process(fd.as_fd()) {
            warn(&format!(
                "Pinned guest RAM stays on the account of the VMM before this one: {error}"
            ));
        }
        Self {
            fd: Some(fd),
            ioas_id,
            messages,
        }
    }

    pub(super) fn fd(&self) -> Result<BorrowedFd<'_>, VfioError> {
        let gone = || VfioError::NotHandedOver {
            what: IOMMUFD.into(),
        };
        self.fd.as_ref().map(AsFd::as_fd).ok_or_else(gone)
    }

    /// The words of messages, mapped.
    pub(super) fn map_messages(&self) -> Result<Messages, VfioError> {
        let gone = || VfioError::NotHandedOver {
            what: messages::MESSAGES.into(),
        };
        Messages::map(self.messages.as_ref().ok_or_else(gone)?.as_fd())
    }

    /// Whether devices can write their messages to memory.
    pub(crate) fn has_messages(&self) -> bool {
        self.messages.is_some()
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
        calls(self.fd()?)?
            .alloc_iommu_hwpt(&mut page_table)
            .map_err(|error| failed("IOMMU_HWPT_ALLOC", address, &error))?;
        Ok(page_table.out_hwpt_id)
    }

    /// Duplicates of its descriptors by name, dependencies first, for a box or another process.
    pub(crate) fn lend(&self) -> Result<Vec<(String, OwnedFd)>, VfioError> {
        let all = [(messages::MESSAGES, &self.messages), (IOMMUFD, &self.fd)];
        let there = all
            .into_iter()
            .filter_map(|(name, fd)| Some((name, fd.as_ref()?)));
        there
            .map(|(name, fd)| Ok((name.into(), duplicate(fd.as_fd())?)))
            .collect()
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, VfioError> {
    fd.try_clone_to_owned().map_err(|source| VfioError::Look {
        address: PATH.into(),
        source,
    })
}

/// The ioctls of iommufd-ioctls, which needs a file of its own.
fn calls(fd: BorrowedFd<'_>) -> Result<IommuFd, VfioError> {
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
        let file = File::open("/dev/null").unwrap();
        let calls = calls(file.as_fd()).unwrap();
        let mut ioas = iommu_ioas_alloc::default();
        let error = calls.alloc_iommu_ioas(&mut ioas).unwrap_err();
        let VfioError::Ioctl { what, source, .. } = failed("IOMMU_IOAS_ALLOC", PATH, &error) else {
            panic!("not an ioctl")
        };
        assert_eq!((what, source), ("IOMMU_IOAS_ALLOC", Errno::NOTTY));
    }
}
