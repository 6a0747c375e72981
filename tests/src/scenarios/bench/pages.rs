//! memfds with a word in each page, made of small or huge pages.

use std::fs::{self, File};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fdbox_lab::bench::Layout;
use rustix::mm::{MapFlags, ProtFlags};

use super::ns_since;
use crate::host::meminfo;
use crate::memory::{self, MIB, PAGE, memfd};

const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// A memfd with a word in each page.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) file: File,
    pub(super) fill_ns: u64,
    /// How much of it is in huge pages.
    pub(super) huge_kib: u64,
}

/// Makes memfds created from now on use pages of this kind.
pub(super) fn choose(layout: Layout) -> Result<()> {
    let enabled = match layout {
        Layout::Huge | Layout::HugeInterleaved => "within_size",
        Layout::Sequential | Layout::Interleaved => "never",
    };
    fs::write(SHMEM_ENABLED, enabled).context("Choose the pages of memfds")
}

/// A file whose content is derived from `index`.
pub(super) fn fill_one(index: u64, mib: u64, layout: Layout) -> Result<Filled> {
    choose(layout)?;
    let file = memfd(c"bench", mib * MIB)?;
    let pages = mib * MIB / PAGE;
    let huge = huge_kib()?;
    let start = Instant::now();
    let mut words = Mapping::of(&file, pages)?;
    (0..pages).for_each(|page| words.set(page, word(index, page)));
    Ok(Filled {
        fill_ns: ns_since(start),
        huge_kib: huge_kib()? - huge,
        file,
    })
}

/// Two files, filled one after the other or in turn.
pub(super) fn fill(mib: u64, layout: Layout) -> Result<[Filled; 2]> {
    if !layout.is_interleaved() {
        return Ok([fill_one(0, mib, layout)?, fill_one(1, mib, layout)?]);
    }
    choose(layout)?;
    let files = [memfd(c"bench", mib * MIB)?, memfd(c"bench", mib * MIB)?];
    let pages = mib * MIB / PAGE;
    let mut words = [
        Mapping::of(&files[0], pages)?,
        Mapping::of(&files[1], pages)?,
    ];
    let start = Instant::now();
    for page in 0..pages {
        for (index, words) in words.iter_mut().enumerate() {
            words.set(page, word(index as u64, page));
        }
    }
    // The time cannot be split exactly between the two.
    let fill_ns = ns_since(start) / 2;
    Ok(files.map(|file| Filled {
        file,
        fill_ns,
        huge_kib: 0,
    }))
}

/// Frees memory in single pages: more than a guest of this size needs, each page between two of the returned file.
pub(super) fn leave_gaps(mib: u64, layout: Layout) -> Result<File> {
    let [kept, freed] = fill(mib + mib / 4, layout)?;
    drop(freed);
    Ok(kept.file)
}

/// Checks that the file's content is the one derived from `index`.
pub(super) fn check(file: &File, index: u64, pages: u64) -> Result<()> {
    ensure!(
        memory::size(file)? == pages * PAGE,
        "The memfd has another size"
    );
    let words = Mapping::of(file, pages)?;
    for page in 0..pages {
        let (found, expected) = (words.get(page), word(index, page));
        ensure!(
            found == expected,
            "Page {page} begins with {found:#x}, not {expected:#x}"
        );
    }
    Ok(())
}

fn word(index: u64, page: u64) -> u64 {
    fdbox_lab::witness::pattern(index, page, 0, 0)
}

/// A mapping that gives access to the first word of each page of a file.
struct Mapping {
    words: *mut u64,
    pages: u64,
}

impl Mapping {
    fn of(file: &File, pages: u64) -> Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let length = (pages * PAGE) as usize;
        // SAFETY: a new mapping at no particular address does not affect existing ones.
        let words =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, flags, file, 0)? };
        Ok(Self {
            words: words.cast(),
            pages,
        })
    }

    fn place(&self, page: u64) -> *mut u64 {
        assert!(page < self.pages);
        self.words.wrapping_byte_add((page * PAGE) as usize)
    }

    fn set(&mut self, page: u64, word: u64) {
        // SAFETY: the place is in the mapping and aligned, and nothing else writes to the file.
        unsafe { self.place(page).write_volatile(word) }
    }

    fn get(&self, page: u64) -> u64 {
        // SAFETY: the place is in the mapping and aligned, and nothing else writes to the file.
        unsafe { self.place(page).read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, and is no longer in use. The call does not
        // fail for an existing mapping.
        let _ = unsafe { rustix::mm::munmap(self.words.cast(), (self.pages * PAGE) as usize) };
    }
}

pub(super) fn free_kib() -> Result<u64> {
    Ok(meminfo("MemFree")? / 1024)
}

fn huge_kib() -> Result<u64> {
    Ok(meminfo("ShmemHugePages")? / 1024)
}
