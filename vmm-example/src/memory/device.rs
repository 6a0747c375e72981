//! Memory of a device, mapped for KVM to map into a guest. This process never accesses it.

#![allow(unsafe_code, reason = "this file is the thin layer around mmap")]

use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{MapFlags, ProtFlags};

/// A part of a device's file, mapped for reading and writing.
#[derive(Debug)]
pub(crate) struct DeviceMapping {
    addr: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is only ever passed to the kernel, never read or written through this value,
// and unmapping is allowed on any thread.
unsafe impl Send for DeviceMapping {}
// SAFETY: as above; a shared reference only provides the address and the length.
unsafe impl Sync for DeviceMapping {}

impl DeviceMapping {
    /// Maps `len` bytes of `file` at `offset`, which are multiples of the page size.
    pub(crate) fn new(file: BorrowedFd<'_>, offset: u64, len: u64) -> rustix::io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| rustix::io::Errno::NOMEM)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: with no address given, the kernel picks one that nothing else uses.
        let addr = unsafe {
            rustix::mm::mmap(null_mut(), len, protection, MapFlags::SHARED, file, offset)
        }?;
        let addr = NonNull::new(addr.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { addr, len })
    }

    /// The address of `len` bytes starting at `offset`; `None` if they are not all mapped.
    pub(crate) fn range(&self, offset: u64, len: u64) -> Option<u64> {
        let end = offset.checked_add(len)?;
        (end <= self.len as u64).then(|| self.addr.as_ptr() as u64 + offset)
    }
}

impl Drop for DeviceMapping {
    fn drop(&mut self) {
        // SAFETY: the range is what `new` mapped, and only this value uses it: a KVM slot over it
        // holds a reference to this value.
        let unmapped = unsafe { rustix::mm::munmap(self.addr.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_range_lies_in_the_mapping() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mapping = DeviceMapping::new(file.as_fd(), 4096, 4096).unwrap();
        let start = mapping.range(0, 4096).unwrap();
        assert_eq!(mapping.range(16, 16), Some(start + 16));
        assert_eq!(mapping.range(16, 4096), None);
        assert_eq!(mapping.range(u64::MAX, 2), None);
    }
}
