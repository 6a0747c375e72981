//! What holds the files in a keeper's sealed boxes, in addition to the keeper.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::entry::{Entry, Refusal};
use super::luo::{Arrived, Luo, LuoBox};
use crate::abi;
use crate::home::{HOME_HOLDER, HOME_LUO};
use crate::name::BoxName;
use crate::owner::Owner;

/// The backing of a keeper.
#[derive(Debug)]
pub(super) enum Backing {
    /// None: the files in a box are lost with the keeper.
    Nobody,
    /// The kernel's Live Update Orchestrator.
    Luo(Luo),
}

/// A sealed box that the backing holds as well, until this is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    _box: LuoBox,
}

impl Backing {
    /// The home's number on the wire.
    pub(super) fn home(&self) -> u32 {
        match self {
            Self::Nobody => HOME_HOLDER,
            Self::Luo(_) => HOME_LUO,
        }
    }

    pub(super) fn features(&self) -> u64 {
        match self {
            Self::Nobody => abi::FDBOX_FEATURE_MEMFD,
            Self::Luo(luo) => luo.features(),
        }
    }

    /// Whether a file that is not a memfd can be kept.
    pub(super) fn takes(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            // A file of another kind may depend on the process that created it, or on its address
            // space.
            Self::Nobody => Err(Errno::OPNOTSUPP),
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
            Self::Luo(luo) => {
                let kept = luo.keep(held, entries)?;
                Ok(Some(Kept { _box: kept }))
            }
        }
    }

    /// The boxes of the last kernel.
    pub(super) fn arrivals(&self) -> Vec<Arrived> {
        match self {
            Self::Nobody => Vec::new(),
            Self::Luo(luo) => luo.arrivals(),
        }
    }
}
