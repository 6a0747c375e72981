//! Huge pages: the host's pools of them, and files that have them.

use std::ffi::CStr;
use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::memory::{MIB, PAGE, page_content};

/// A size of huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    TwoMib,
    OneGib,
}

impl Size {
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::TwoMib => 2 * MIB,
            Self::OneGib => 1024 * MIB,
        }
    }

    fn flags(self) -> MemfdFlags {
        let size = match self {
            Self::TwoMib => MemfdFlags::HUGE_2MB,
            Self::OneGib => MemfdFlags::HUGE_1GB,
        };
        MemfdFlags::HUGETLB | size
    }

    /// A new file of `pages` huge pages that can be sealed; all of it is a hole.
    pub(crate) fn file(self, name: &CStr, pages: u64) -> Result<File> {
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC | self.flags();
        let fd = memfd_create(name, flags).context("Create a memfd of huge pages")?;
        ftruncate(&fd, pages * self.bytes()).context("Give it its size")?;
        Ok(File::from(fd))
    }
}

/// What the kernel counts of a pool, in huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) all: u64,
    pub(crate) free: u64,
    pub(crate) reserved: u64,
    pub(crate) surplus: u64,
}

/// The pool of one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool(pub(crate) Size);

impl Pool {
    fn path(self, name: &str) -> PathBuf {
        let kib = self.0.bytes() / 1024;
        PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/{name}"))
    }

    fn read(self, name: &str) -> Result<u64> {
        let path = self.path(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().parse()?)
    }

    pub(crate) fn counts(self) -> Result<Counts> {
        Ok(Counts {
            all: self.read("nr_hugepages")?,
            free: self.read("free_hugepages")?,
            reserved: self.read("resv_hugepages")?,
            surplus: self.read("surplus_hugepages")?,
        })
    }

    /// Sets the number of its pages.
    pub(crate) fn resize(self, pages: u64) -> Result<()> {
        fs::write(self.path("nr_hugepages"), pages.to_string())?;
        let all = self.read("nr_hugepages")?;
        ensure!(all == pages, "The pool has {all} pages, not {pages}");
        Ok(())
    }

    /// Adds free pages.
    pub(crate) fn grow(self, pages: u64) -> Result<()> {
        self.resize(self.counts()?.all + pages)
    }

    /// The number of pages that the pool may borrow from the host.
    pub(crate) fn overcommit(self, pages: u64) -> Result<()> {
        Ok(fs::write(
            self.path("nr_overcommit_hugepages"),
            pages.to_string(),
        )?)
    }
}

/// A mapping of a file from its start, for as long as this exists.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: &'static mut [u8],
}

impl Window {
    /// Maps `len` bytes; the pool need not have pages for them yet.
    pub(crate) fn new(file: &File, len: u64) -> Result<Self> {
        Self::with(file, len, MapFlags::SHARED | MapFlags::NORESERVE)
    }

    /// The same, and the pool must have them.
    pub(crate) fn reserving(file: &File, len: u64) -> Result<Self> {
        Self::with(file, len, MapFlags::SHARED)
    }

    fn with(file: &File, len: u64, flags: MapFlags) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let (null, len) = (std::ptr::null_mut(), len as usize);
        // SAFETY: a new mapping at no particular address does not affect existing ones.
        let start = unsafe { mmap(null, len, protection, flags, file, 0) };
        let start = start.context("Map huge pages")?;
        // SAFETY: the mapping has this length, and only this value uses it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast(), len) };
        Ok(Self { bytes })
    }

    /// Page `index` of 4 KiB.
    pub(crate) fn page(&mut self, index: u64) -> &mut [u8] {
        let at = (index * PAGE) as usize;
        &mut self.bytes[at..at + PAGE as usize]
    }

    /// Writes the content of `seed` to pages of 4 KiB.
    pub(crate) fn write(&mut self, seed: u64, pages: impl IntoIterator<Item = u64>) {
        for index in pages {
            self.page(index).copy_from_slice(&page_content(seed, index));
        }
    }

    /// Checks that pages of 4 KiB have the content of `seed`.
    pub(crate) fn check(&mut self, seed: u64, pages: impl IntoIterator<Item = u64>) -> Result<()> {
        for index in pages {
            let expected = page_content(seed, index);
            ensure!(
                self.page(index) == expected,
                "Page {index} is not what was written"
            );
        }
        Ok(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, and nothing refers to it any more.
        let unmapped = unsafe { munmap(self.bytes.as_mut_ptr().cast(), self.bytes.len()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
