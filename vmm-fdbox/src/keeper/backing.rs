//! What holds the files in a keeper's sealed boxes, in addition to the keeper.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::arrival::Arrived;
use super::entry::{Entry, Refusal};
use super::fd_store::FdStore;
use super::kept::Kept;
use super::luo::Luo;
use crate::abi;
use crate::home::{HOME_HOLDER, HOME_LUO};
use crate::name::BoxName;
use crate::owner::Owner;

/// The backing of a keeper.
#[derive(Debug)]
pub(super) enum Backing {
    /// None: the files in a box are lost with the keeper.
    Nobody,
    /// The service manager, which gives them to the next keeper in this kernel.
    Stored(FdStore),
    /// The kernel's Live Update Orchestrator.
    Luo(Luo),
}

/// What a process can hold: any memfd.
const HELD: u64 = abi::FDBOX_FEATURE_MEMFD | abi::FDBOX_FEATURE_HUGETLB;

impl Backing {
    /// The home's number on the wire.
    pub(super) fn home(&self) -> u32 {
        match self {
            Self::Nobody | Self::Stored(_) => HOME_HOLDER,
            Self::Luo(_) => HOME_LUO,
        }
    }

    pub(super) fn features(&self) -> u64 {
        match self {
            Self::Nobody => HELD,
            Self::Stored(store) => HELD | store.features(),
            Self::Luo(luo) => luo.features(),
        }
    }

    /// Whether a file that is not a memfd can be kept.
    pub(super) fn takes(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            // A file of another kind may depend on the process that created it, or on its address
            // space.
            Self::Nobody | Self::Stored(_) => Err(Errno::OPNOTSUPP),
            Self::Luo(luo) => luo.takes(fd),
        }
    }

    /// Gives a sealed box to the backing.
    pub(super) fn keep(
        &self,
        held: (&BoxName, Owner),
        entries: &[Entry],
    ) -> Result<Option<Kept>, Refusal> {
        match self {
            Self::Nobody => Ok(None),
            Self::Stored(store) => store.keep(held, entries).map(|kept| Some(Kept::by(kept))),
            Self::Luo(luo) => luo.keep(held, entries).map(|kept| Some(Kept::by(kept))),
        }
    }

    /// The boxes that an earlier keeper left.
    pub(super) fn arrivals(&self) -> Vec<Arrived> {
        match self {
            Self::Nobody => Vec::new(),
            Self::Stored(store) => store.arrivals(),
            Self::Luo(luo) => luo.arrivals(),
        }
    }
}
