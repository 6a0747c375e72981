//! Who works on a box. The module lets everybody who may open a box do everything with it; what
//! keeps two programs from taking the same guest apart is a lock on the box's node, which goes
//! with the process that holds it, however it ends.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::boxes::DIRECTORY;
use crate::error::{BoxError, Operation};
use crate::name::BoxName;

/// With whom a box is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// With others who say so: the two VMMs of a handover in one kernel.
    Shared,
    /// With nobody.
    Exclusive,
}

/// A box that this process works on, until this is dropped. It says so to those who ask by
/// [`Control::claim`](crate::Control::claim), and keeps nobody else from anything.
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

    /// By a descriptor of the box. The lock is the open file's: it stays until every duplicate of the
    /// descriptor is closed, whoever has it.
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
