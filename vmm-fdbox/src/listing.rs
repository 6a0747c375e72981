//! Listings of boxes and descriptors.

use std::fmt;

use crate::abi;
use crate::name::FdName;

/// The state of a descriptor in its box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FdState {
    /// An open file of this kernel.
    Live,
    /// From the last kernel; taking it out restores it.
    Incoming,
    /// From the last kernel, of a kind that nothing here restores yet.
    UnknownKind,
    /// A state that a newer module reports.
    Other(u32),
}

impl fmt::Display for FdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Incoming => f.write_str("incoming"),
            Self::UnknownKind => f.write_str("unknown kind"),
            Self::Other(state) => write!(f, "state {state}"),
        }
    }
}

impl From<u32> for FdState {
    fn from(state: u32) -> Self {
        match state {
            abi::FDBOX_FD_LIVE => Self::Live,
            abi::FDBOX_FD_INCOMING => Self::Incoming,
            abi::FDBOX_FD_UNKNOWN => Self::UnknownKind,
            other => Self::Other(other),
        }
    }
}

/// A descriptor in a listing of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdInfo {
    /// Its name in the box.
    pub name: FdName,
    /// Its kind: the compatible string under which it crosses a kexec.
    pub kind: String,
    /// Its state.
    pub state: FdState,
    /// Memory that it holds, in bytes; 0 if it holds none.
    pub bytes: u64,
}

/// The next cursor; `None` if the module did not advance it, which would loop forever.
pub(crate) fn advance(old: u64, new: u64) -> Option<u64> {
    (new > old).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_stands_still_is_refused() {
        assert_eq!(advance(3, 4), Some(4));
        assert_eq!(advance(3, 3), None);
    }

    #[test]
    fn a_state_of_a_newer_module_is_kept() {
        assert_eq!(FdState::from(1), FdState::Incoming);
        assert_eq!(FdState::from(9).to_string(), "state 9");
    }
}
