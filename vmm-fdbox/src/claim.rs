//! Claims on boxes. The module lets everybody who may open a box do everything with it. To keep two
//! programs from taking the same guest, a claim locks the box's node; the kernel releases the lock
//! when the process that holds it ends, however it ends.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::boxes::DIRECTORY;
use crate::error::{BoxError, Operation};
use crate::name::BoxName;

/// Whether a claim may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// With other shared claims: the two VMMs of a handover in one kernel.
    Shared,
    /// Not shared.
    Exclusive,
}

/// A claim: proof that this process is working on a box, until it is dropped. Others see it through
/// [`Control::claim`](crate::Control::claim); it does not block any operation on the box.
#[derive(Debug)]
pub struct BoxClaim {
    _node: OwnedFd,
}

impl BoxClaim {
    pub(crate) fn take(name: &BoxName, hold: Hold) -> Result<Self, BoxError> {
        let error = |errno| BoxError::new(Operation::Claim, format!("box {name}"), errno);
        let mut path = format!("{DIRECTORY}/").into_bytes();
        path.extend_from_slice(name.as_bytes());
        let node = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        Self::of(node.map_err(error)?, name, hold)
    }

    /// Claims the box of this descriptor. The lock belongs to the open file: it stays until every
    /// duplicate of the descriptor is closed, in any process.
    pub(crate) fn of(node: OwnedFd, name: &BoxName, hold: Hold) -> Result<Self, BoxError> {
        let error = |errno| BoxError::new(Operation::Claim, format!("box {name}"), errno);
        lock(&node, hold).map_err(error)?;
        Ok(Self { _node: node })
    }
}

fn lock(node: &OwnedFd, hold: Hold) -> Result<(), Errno> {
    flock(
        node,
        match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_goes_with_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        std::fs::write(&path, "").unwrap();
        let open = || OwnedFd::from(std::fs::File::open(&path).unwrap());
        let (old, new, other) = (open(), open(), open());
        lock(&old, Hold::Shared).unwrap();
        lock(&new, Hold::Shared).unwrap();
        assert_eq!(lock(&other, Hold::Exclusive), Err(Errno::AGAIN));
        drop(old);
        assert_eq!(lock(&other, Hold::Exclusive), Err(Errno::AGAIN));
        drop(new);
        lock(&other, Hold::Exclusive).unwrap();
        assert_eq!(lock(&open(), Hold::Shared), Err(Errno::AGAIN));
    }
}
