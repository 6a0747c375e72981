//! Claims on boxes. The module lets everybody who may open a box do everything with it. To keep two
//! programs from taking the same guest, a claim locks the box's node; the kernel releases the lock
//! when the process that holds it ends, however it ends. A keeper does the same for its
//! sockets.

use crate::error::{BoxError, Operation};
use crate::handle::BoxHandle;
use crate::hold::Hold;
use crate::name::BoxName;

/// A claim: proof that this process is working on a box, until it is dropped. Others see it through
/// [`Control::claim`](crate::Control::claim); it does not block any operation on the box.
#[derive(Debug)]
pub struct BoxClaim {
    _handle: BoxHandle,
}

impl BoxClaim {
    /// Claims the box of this descriptor. The claim belongs to the open file: it stays until every
    /// duplicate of the descriptor is closed, in any process.
    pub(crate) fn of(handle: BoxHandle, name: &BoxName, hold: Hold) -> Result<Self, BoxError> {
        let error = |errno| BoxError::new(Operation::Claim, format!("box {name}"), errno);
        handle.claim(hold).map_err(error)?;
        Ok(Self { _handle: handle })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_claim_goes_with_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        std::fs::write(&path, "").unwrap();
        let open = || BoxHandle::Module(OwnedFd::from(std::fs::File::open(&path).unwrap()));
        let lock = |handle: &BoxHandle, hold| handle.claim(hold);
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
