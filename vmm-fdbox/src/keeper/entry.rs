//! A descriptor in a keeper's box.

use std::os::fd::OwnedFd;

use rustix::fs::fstat;
use rustix::io::Errno;

use crate::abi;
use crate::name::FdName;

/// The maximum number of descriptors in a box.
pub(super) const MAX_FDS: usize = 256;

/// The kind of a memfd.
pub(super) const MEMFD: &str = "keeper,memfd-v1";
/// A kind of file that the backing supports although this library does not know it.
pub(super) const OTHER: &str = "keeper,file-v1";

/// Why a descriptor of the last kernel is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) errno: Errno,
    pub(super) message: &'static str,
}

/// A descriptor in a box.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: FdName,
    pub(super) kind: String,
    pub(super) file: Result<OwnedFd, Lost>,
}

impl Entry {
    /// Memory that it holds, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let stat = self.file.as_ref().ok().and_then(|fd| fstat(fd).ok());
        stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
    }

    pub(super) fn state(&self) -> u32 {
        match self.file {
            Ok(_) => abi::FDBOX_FD_LIVE,
            Err(_) => abi::FDBOX_FD_INCOMING,
        }
    }
}

/// The descriptor that prevented a seal, and the reason.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    /// `None` stands for the whole box.
    pub(super) name: Option<FdName>,
    pub(super) reason: u32,
    pub(super) message: String,
}
