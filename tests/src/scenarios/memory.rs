//! memfds with known content.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const MIB: u64 = 1 << 20;

/// A new memfd of `bytes` zeros that can be sealed.
pub(crate) fn memfd(name: &CStr, bytes: u64) -> Result<File> {
    let fd = memfd_create(name, MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
    ftruncate(&fd, bytes).context("Give the memfd its size")?;
    Ok(File::from(fd))
}

/// The content of page `index` in a file with this `seed`.
pub(crate) fn page_content(seed: u64, index: u64) -> Vec<u8> {
    let words = (0..PAGE / 8).map(|word| fdbox_lab::witness::pattern(seed, index, 0, word));
    words.flat_map(u64::to_le_bytes).collect()
}

const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Memfds get huge pages while this acts.
pub(crate) fn in_huge_pages<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    std::fs::write(SHMEM_ENABLED, "within_size").context("Allow huge pages for memfds")?;
    let result = act();
    std::fs::write(SHMEM_ENABLED, "never")?;
    result
}

/// The page frame number of a file's first page, from /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
pub(crate) fn frame(file: &File) -> Result<u64> {
    let len = PAGE as usize;
    let null = std::ptr::null_mut();
    // SAFETY: a new mapping at no particular address does not affect existing ones.
    let page = unsafe { mmap(null, len, ProtFlags::READ, MapFlags::SHARED, file, 0) };
    let page = page.context("Map a page")?;
    // It is in the page table once it has been read. SAFETY: the page is mapped, and readable.
    unsafe { page.cast::<u8>().read_volatile() };
    let mut entry = [0; 8];
    let read = File::open("/proc/self/pagemap")
        .and_then(|pagemap| pagemap.read_exact_at(&mut entry, page.addr() as u64 / PAGE * 8));
    // SAFETY: the mapping belongs to this function, and nothing refers to it.
    unsafe { munmap(page, len)? };
    read.context("Read the page's entry")?;
    let entry = u64::from_le_bytes(entry);
    ensure!(entry >> 63 == 1, "The page is not present: {entry:#x}");
    Ok(entry & ((1 << 55) - 1))
}

pub(crate) fn write_page(file: &File, seed: u64, index: u64) -> Result<()> {
    file.write_all_at(&page_content(seed, index), index * PAGE)
        .context("Write a page")
}

pub(crate) fn write_pages(file: &File, seed: u64, pages: u64) -> Result<()> {
    (0..pages).try_for_each(|index| write_page(file, seed, index))
}

pub(crate) fn check_page(file: &File, seed: u64, index: u64) -> Result<()> {
    check_bytes(file, index, &page_content(seed, index))
}

pub(crate) fn check_pages(file: &File, seed: u64, pages: u64) -> Result<()> {
    (0..pages).try_for_each(|index| check_page(file, seed, index))
}

pub(crate) fn check_zero_page(file: &File, index: u64) -> Result<()> {
    check_bytes(file, index, &[0; PAGE as usize])
}

fn check_bytes(file: &File, index: u64, expected: &[u8]) -> Result<()> {
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, index * PAGE)
        .with_context(|| format!("Read page {index}"))?;
    let wrong = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    if let Some(at) = wrong {
        anyhow::bail!(
            "Page {index} is {:#x} at byte {at}, not {:#x}",
            found[at],
            expected[at]
        );
    }
    Ok(())
}

pub(crate) fn size(fd: impl AsFd) -> Result<u64> {
    Ok(fstat(fd)?.st_size as u64)
}

pub(crate) fn check_size(fd: impl AsFd, expected: u64) -> Result<()> {
    let found = size(fd)?;
    ensure!(found == expected, "The size is {found}, not {expected}");
    Ok(())
}

/// The descriptor as a file for reading and writing.
pub(crate) fn file(fd: OwnedFd) -> File {
    File::from(fd)
}
