//! Descriptors left open for this process by whoever started it, by their numbers.

#![allow(
    unsafe_code,
    reason = "a number is all that is known of such a descriptor"
)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        assert!(duplicate(-1).is_err());
        assert!(duplicate(1_000_000).is_err());
        assert!(duplicate(0).is_ok());
    }
}
