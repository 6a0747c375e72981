//! Descriptors left open for this process by whoever started it, by their numbers.

#![allow(
    unsafe_code,
    reason = "a number is all that is known of such a descriptor"
)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The last of the standard streams, which always belong to somebody.
const STDERR: RawFd = 2;

/// Duplicates a descriptor that is open in this process under this number.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: the borrow lasts for one system call, which checks the number itself; -1, the one
    // number that must not be borrowed, is excluded.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned()
}

/// Takes a descriptor that was left open for this process under this number, and that nothing else in it uses.
pub(crate) fn take(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= STDERR {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: as above.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    // It is not for the programs that this process starts.
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open, as the call above has shown, and the caller says that nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        assert!(duplicate(-1).is_err());
        assert!(duplicate(1_000_000).is_err());
        assert!(duplicate(0).is_ok());
        assert!(take(-1).is_err());
        assert!(take(1_000_000).is_err());
        assert!(take(2).is_err(), "it is somebody's");
    }
}
