//! Guest RAM: one file, mapped here and into KVM.

pub(crate) mod device;
mod dump;
pub(crate) mod layout;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags};
use thiserror::Error;
use vm_memory::mmap::FromRangesError;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionCollectionError, GuestRegionMmap,
};

use crate::kvm::{self, Vm};
use crate::spec::{HugePage, MIB, MemoryKind, MemorySpec};
use layout::{RamRange, ram_ranges};

/// Why guest RAM could not be set up.
#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    #[error("Cannot create a memfd of {mib} MiB for guest RAM")]
    CreateMemfd { mib: u64, source: rustix::io::Errno },
    #[error(
        "Cannot create a guest_memfd of {mib} MiB for guest RAM: it takes Linux 6.18 or later; \
         --memory kind=memfd works without"
    )]
    CreateGuestMemfd { mib: u64, source: kvm::KvmError },
    #[error(
        "Cannot allocate {mib} MiB in huge pages of {page} for guest RAM: this host's pool has \
         too few (/sys/kernel/mm/hugepages), or none of that size"
    )]
    CreateHugetlb {
        mib: u64,
        page: HugePage,
        source: rustix::io::Errno,
    },
    #[error("Cannot duplicate the file of guest RAM")]
    Duplicate(#[source] std::io::Error),
    #[error("Cannot map guest RAM at {gpa:#x}, {len} bytes")]
    Map {
        gpa: u64,
        len: u64,
        source: FromRangesError,
    },
    #[error("Cannot put the ranges of guest RAM together")]
    Join(#[source] GuestRegionCollectionError),
    #[error("The file of guest RAM has {found} bytes instead of {expected}")]
    WrongSize { expected: u64, found: u64 },
    #[error(transparent)]
    BadRange(#[from] layout::BadRange),
    #[error("Cannot give the range at {gpa:#x} to KVM")]
    SetRegion { gpa: u64, source: kvm::KvmError },
}

/// The smallest page.
const PAGE: usize = 4096;

/// Guest RAM, mapped. A box keeps the file: the mapping ends with the process.
#[derive(Debug)]
pub(crate) struct GuestRam {
    kind: MemoryKind,
    ranges: Vec<RamRange>,
    file: File,
    mapped: GuestMemoryMmap,
}

impl GuestRam {
    /// Creates zeroed RAM for a new guest of `vm`.
    pub(crate) fn create(vm: &Vm, spec: MemorySpec) -> Result<Self, MemoryError> {
        let MemorySpec { mib, kind, page } = spec;
        let bytes = spec.bytes();
        let file = match kind {
            MemoryKind::Memfd => {
                create_memfd(bytes).map_err(|source| MemoryError::CreateMemfd { mib, source })?
            }
            MemoryKind::Hugetlb => create_hugetlb(bytes, page)
                .map_err(|source| MemoryError::CreateHugetlb { mib, page, source })?,
            MemoryKind::GuestMemfd => vm
                .create_guest_memfd(bytes)
                .map_err(|source| MemoryError::CreateGuestMemfd { mib, source })?,
        };
        Self::adopt(file, ram_ranges(bytes), kind)
    }

    /// Maps RAM that another process or kernel left in `file`.
    pub(crate) fn adopt(
        file: OwnedFd,
        ranges: Vec<RamRange>,
        kind: MemoryKind,
    ) -> Result<Self, MemoryError> {
        let file = File::from(file);
        let expected = layout::check(&ranges)?;
        let found = file.metadata().map_err(MemoryError::Duplicate)?.len();
        if found != expected {
            return Err(MemoryError::WrongSize { expected, found });
        }
        let regions = ranges
            .iter()
            .map(|range| map(&file, range))
            .collect::<Result<Vec<_>, _>>()?;
        let mapped = GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Join)?;
        Ok(Self {
            kind,
            ranges,
            file,
            mapped,
        })
    }

    /// Has every page mapped in this process, which only reads.
    pub(crate) fn prefault(&self) {
        for range in &self.ranges {
            for at in (range.gpa..range.gpa + range.len).step_by(PAGE) {
                // A page that cannot be read is noticed by whoever uses it.
                let _ = self.mapped.read_obj::<u8>(GuestAddress(at));
            }
        }
    }

    /// Maps the RAM into `vm`, at its usual guest addresses.
    pub(crate) fn attach(&self, vm: &Vm) -> Result<(), MemoryError> {
        let guest_memfd = self.is_guest_memfd().then(|| self.file.as_fd());
        for (slot, range) in (0u32..).zip(&self.ranges) {
            vm.set_memory(slot, *range, &self.mapped, guest_memfd)
                .map_err(|source| MemoryError::SetRegion {
                    gpa: range.gpa,
                    source,
                })?;
        }
        Ok(())
    }

    /// Whether KVM takes the pages from the file itself. That of a guest_memfd which is lent to a lifeboat is another
    /// one: it can be read, and KVM finds its pages by the mapping.
    fn is_guest_memfd(&self) -> bool {
        self.kind == MemoryKind::GuestMemfd && rustix::io::pread(&self.file, &mut [0], 0).is_err()
    }

    /// A duplicate of the RAM file's descriptor, for a box.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, MemoryError> {
        self.file
            .as_fd()
            .try_clone_to_owned()
            .map_err(MemoryError::Duplicate)
    }

    /// The RAM's file, for passed-through devices.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The RAM as the boot code sees it.
    pub(crate) fn mapped(&self) -> &GuestMemoryMmap {
        &self.mapped
    }

    pub(crate) fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    pub(crate) fn kind(&self) -> MemoryKind {
        self.kind
    }

    pub(crate) fn mib(&self) -> u64 {
        self.ranges.iter().map(|range| range.len).sum::<u64>() / MIB
    }
}

fn create_memfd(bytes: u64) -> Result<OwnedFd, rustix::io::Errno> {
    let file = rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, bytes)?;
    Ok(file)
}

/// Allocates all of it: a page that the pool lacks would otherwise be missing when the guest first
/// uses it.
fn create_hugetlb(bytes: u64, page: HugePage) -> Result<OwnedFd, rustix::io::Errno> {
    let size = match page {
        HugePage::TwoMib => MemfdFlags::HUGE_2MB,
        HugePage::OneGib => MemfdFlags::HUGE_1GB,
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | size;
    let file = rustix::fs::memfd_create("guest-ram", flags)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    Ok(file)
}

/// Maps one range, shared.
fn map(file: &File, range: &RamRange) -> Result<GuestRegionMmap, MemoryError> {
    let file = file.try_clone().map_err(MemoryError::Duplicate)?;
    let offset = FileOffset::new(file, range.file_offset);
    let fail = |source| MemoryError::Map {
        gpa: range.gpa,
        len: range.len,
        source,
    };
    let len = usize::try_from(range.len).map_err(|_| fail(FromRangesError::InvalidGuestRegion))?;
    let region = GuestRegionMmap::from_range(GuestAddress(range.gpa), len, Some(offset));
    let region = region.map_err(fail)?;
    dump::leave_out(&region);
    Ok(region)
}
