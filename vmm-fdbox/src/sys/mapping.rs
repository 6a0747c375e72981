//! A mapped file.

use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// A file mapped shared and writable, from its start.
///
/// # Invariants
/// `start` is the address of a mapping of `len` bytes, `len > 0`, which lives until this value is
/// dropped and to which no reference is ever created.
#[derive(Debug)]
pub(crate) struct SharedMapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `&self`
// methods do not write.
unsafe impl Send for SharedMapping {}

impl SharedMapping {
    /// Maps `len` bytes of `fd` and populates every page.
    pub(crate) fn new(fd: impl AsFd, len: usize) -> Result<Self, Errno> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: no address is requested, so no existing mapping is touched.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                0,
            )
        }?;
        // INVARIANT: mmap rejects len 0 and returned a mapping of `len` bytes.
        NonNull::new(start.cast())
            .map(|start| Self { start, len })
            .ok_or(Errno::FAULT)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies `bytes` to `offset`; `false` if they do not fit.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let fits = offset
            .checked_add(bytes.len())
            .is_some_and(|end| end <= self.len);
        if fits {
            // SAFETY: offset < len, or == len with no bytes to copy, so by the type's invariant the
            // result is in the mapping or just after it.
            let target = unsafe { self.start.as_ptr().add(offset) };
            // Another process that has mapped the file could at worst see or cause a torn copy,
            // which the checksums of the stored data detect.
            //
            // SAFETY: offset + bytes.len() <= len, so by the type's invariant the target is inside
            // the mapping; it cannot overlap `bytes`, because no reference to the mapping exists.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        }
        // Later writes must not become visible before this one.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        fits
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: by the invariant this is a whole mapping, which nothing refers to once `self` is
        // gone. Unmapping can only fail for invalid arguments.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
