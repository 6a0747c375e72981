//! Boxes that an earlier keeper left: of the last kernel, or of this one.

use std::os::fd::{AsFd, OwnedFd};

use super::directory::Listed;
use super::entry::{Entry, Lost};
use super::kept::Kept;
use crate::name::BoxName;
use crate::owner::Owner;
use crate::sys;

/// A box that an earlier keeper left, as its directory describes it.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) name: BoxName,
    pub(super) owner: Owner,
    pub(super) incoming: Incoming,
}

/// The files of such a box.
#[derive(Debug)]
pub(super) enum Incoming {
    /// They are still in a session of LUO.
    Luo { session: OwnedFd, fds: Vec<Listed> },
    /// The service manager has returned them, and still has them.
    Stored { entries: Vec<Entry>, kept: Kept },
}

impl Incoming {
    pub(super) fn fds(&self) -> usize {
        match self {
            Self::Luo { fds, .. } => fds.len(),
            Self::Stored { entries, .. } => entries.len(),
        }
    }

    /// All files, and what still holds the box. Those that LUO cannot restore are lost, and it frees what it still has of
    /// them.
    pub(super) fn take_all(self) -> (Vec<Entry>, Option<Kept>) {
        match self {
            Self::Luo { session, fds } => {
                let take = |listed: Listed| Entry {
                    file: sys::luo_take(session.as_fd(), listed.token).map_err(|errno| Lost {
                        errno,
                        message: "LUO cannot restore it: see the kernel log",
                    }),
                    name: listed.name,
                    kind: listed.kind,
                };
                let entries = fds.into_iter().map(take).collect();
                let _ = sys::luo_finish(session.as_fd());
                (entries, None)
            }
            Self::Stored { entries, kept } => (entries, Some(kept)),
        }
    }
}
