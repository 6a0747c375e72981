//! Who holds what a keeper's sealed boxes have, beside the keeper itself.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::content::{Entry, Refusal};
use super::held::Held;
use super::luo::{Luo, LuoBox};
use super::wire::{HOME_HOLDER, HOME_LUO};
use crate::abi;
use crate::coordinator::Owner;
use crate::name::BoxName;

/// Who is behind a keeper.
#[derive(Debug)]
pub(super) enum Backing {
    /// Nobody: what is in a box goes with the keeper.
    Nobody,
    /// The kernel's Live Update Orchestrator.
    Luo(Luo),
}

/// A sealed box that somebody else holds as well, until this is dropped.
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

    /// Whether a file that is no memfd can be kept.
    pub(super) fn takes(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            // A file of another kind belongs to the process that made it, or to its address space.
            Self::Nobody => Err(Errno::OPNOTSUPP),
            Self::Luo(luo) => luo.takes(fd),
        }
    }

    /// Gives a box that is sealed to whoever is behind the keeper.
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
    pub(super) fn arrivals(&mut self) -> Vec<Held> {
        match self {
            Self::Nobody => Vec::new(),
            Self::Luo(luo) => luo.arrivals(),
        }
    }
}
