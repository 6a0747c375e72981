//! Boxes: open ones accept and return descriptors, sealed ones keep them.
//!
//! ```text
//!            put, take                          nothing
//!           ┌─────────┐                       ┌─────────┐
//! create ─▶ │ OpenBox │ ──── seal ──────────▶ │SealedBox│ ── kexec ─▶ SealedBox
//!           └─────────┘ ◀─── unseal ───────── └─────────┘
//! ```
//!
//! A box outlives these values: dropping an [`OpenBox`] closes a handle, and the box stays until
//! [`Control::delete`](crate::Control::delete) or a reboot.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::abi;
use crate::bytes::text;
use crate::error::{BoxError, Operation};
use crate::handle::BoxHandle;
use crate::listing::{FdInfo, advance};
use crate::name::{BoxName, FdName};
use crate::seal_error::{SealError, SealReport};
use crate::unseal_error::{LostFd, UnsealError};

/// A descriptor that a box refused; it is returned, still open.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct PutError {
    /// The descriptor.
    pub fd: OwnedFd,
    /// Why.
    pub error: BoxError,
}

/// A box that was not sealed; it is returned unchanged, open.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct SealFailed<B = OpenBox> {
    /// The box, open.
    pub open: B,
    /// Why.
    pub error: SealError,
}

/// A box that was not unsealed; it is returned unchanged, sealed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct UnsealFailed<B = SealedBox> {
    /// The box, sealed.
    pub sealed: B,
    /// Why.
    pub error: UnsealError,
}

#[derive(Debug)]
struct Node {
    handle: BoxHandle,
    name: BoxName,
}

impl Node {
    /// A descriptor opened by another process, and whether its box is sealed.
    fn passed(fd: OwnedFd, name: BoxName) -> Result<(Self, bool), BoxError> {
        match BoxHandle::passed(fd) {
            Ok((handle, sealed)) => Ok((Self { handle, name }, sealed)),
            Err(errno) => {
                let target = format!("box {name}");
                Err(BoxError::new(Operation::OpenBox, target, errno))
            }
        }
    }

    fn error(&self, operation: Operation, errno: Errno) -> BoxError {
        BoxError::new(operation, format!("box {}", self.name), errno)
    }

    fn fd_error(&self, operation: Operation, name: &FdName, errno: Errno) -> BoxError {
        BoxError::new(operation, format!("'{name}' in box {}", self.name), errno)
    }

    fn fds(&self) -> Result<Vec<FdInfo>, BoxError> {
        let mut fds = Vec::new();
        let mut cursor = 0;
        while let Some(next) = self
            .handle
            .next_fd(cursor)
            .map_err(|errno| self.error(Operation::List, errno))?
        {
            let name = FdName::from_kernel(&next.name)
                .map_err(|_| BoxError::bad_name(format!("box {}", self.name)))?;
            fds.push(FdInfo {
                name,
                kind: text(&next.compatible),
                state: next.state.into(),
                bytes: next.bytes,
            });
            cursor = advance(cursor, next.cursor)
                .ok_or_else(|| self.error(Operation::List, Errno::PROTO))?;
        }
        Ok(fds)
    }

    /// The descriptors that the last unseal found to be lost and that are still in the box.
    fn lost(&self) -> Result<Vec<LostFd>, BoxError> {
        let mut lost = Vec::new();
        let mut cursor = 0;
        while let Some(next) = self
            .handle
            .next_lost(cursor)
            .map_err(|errno| self.error(Operation::List, errno))?
        {
            let name = FdName::from_kernel(&next.name)
                .map_err(|_| BoxError::bad_name(format!("box {}", self.name)))?;
            lost.push(LostFd {
                name,
                kind: text(&next.compatible),
                errno: Errno::from_raw_os_error(next.error),
                reason: next.reason.into(),
                message: text(&next.message),
            });
            cursor = advance(cursor, next.cursor)
                .ok_or_else(|| self.error(Operation::List, Errno::PROTO))?;
        }
        Ok(lost)
    }

    /// The error of an unseal that failed with `errno`, as detailed as the kernel reports it.
    fn unseal_error(&self, operation: Operation, errno: Errno) -> UnsealError {
        let lost = match errno {
            Errno::NODATA => self.lost().unwrap_or_default(),
            _ => Vec::new(),
        };
        let error = self.error(operation, errno);
        UnsealError { error, lost }
    }
}

/// A home's report on a seal that failed.
fn seal_report(report: &abi::SealError) -> SealReport {
    SealReport {
        name: FdName::from_kernel(&report.name).ok(),
        reason: report.reason.into(),
        message: text(&report.message),
    }
}

/// A box that accepts and returns descriptors.
#[derive(Debug)]
pub struct OpenBox(Node);

impl OpenBox {
    pub(crate) fn new(handle: BoxHandle, name: BoxName) -> Self {
        Self(Node { handle, name })
    }

    /// Like [`AnyBox::from_fd`], for a box that must be open.
    ///
    /// # Errors
    /// As there; EBUSY if it is sealed.
    pub fn from_fd(fd: OwnedFd, name: BoxName) -> Result<Self, BoxError> {
        match Node::passed(fd, name)? {
            (node, false) => Ok(Self(node)),
            (node, true) => Err(node.error(Operation::OpenBox, Errno::BUSY)),
        }
    }

    /// The box's name.
    #[must_use]
    pub fn name(&self) -> &BoxName {
        &self.0.name
    }

    /// Moves a descriptor into the box. The process no longer has it.
    ///
    /// # Errors
    /// [`PutError`] returns the descriptor: EEXIST if the name is taken, EOPNOTSUPP if this kind
    /// cannot be kept, EBUSY if the box has been sealed meanwhile.
    pub fn put(&self, name: &FdName, fd: OwnedFd) -> Result<(), PutError> {
        let put = self.0.handle.put_fd(name.to_kernel(), fd);
        put.map_err(|(fd, errno)| PutError {
            fd,
            error: self.0.fd_error(Operation::Put, name, errno),
        })
    }

    /// Moves a descriptor out of the box. It is close-on-exec.
    ///
    /// # Errors
    /// ENOENT if there is no such name, EMFILE if no descriptor number is free, EOPNOTSUPP if
    /// nothing restores its kind yet, EIO if the saved state cannot be restored, EBUSY if the box
    /// has been sealed meanwhile. The descriptor is then still in the box.
    pub fn get(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        self.get_with(name, 0)
    }

    /// Like [`get`](Self::get), but the box also keeps the file under this name: a program that is
    /// killed at any point leaves it for the next one. Once that is no longer needed,
    /// [`get`](Self::get) it as well.
    ///
    /// # Errors
    /// As for [`get`](Self::get); EINVAL if the module is older than `FDBOX_GET_KEEP`.
    pub fn get_and_keep(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        self.get_with(name, abi::FDBOX_GET_KEEP)
    }

    fn get_with(&self, name: &FdName, flags: u64) -> Result<OwnedFd, BoxError> {
        let got = self.0.handle.get_fd(name.to_kernel(), flags);
        got.map_err(|errno| self.0.fd_error(Operation::Get, name, errno))
    }

    /// Lists the descriptors in the box.
    ///
    /// # Errors
    /// ENODEV if the box was deleted.
    pub fn fds(&self) -> Result<Vec<FdInfo>, BoxError> {
        self.0.fds()
    }

    /// Lists the descriptors that [`SealedBox::salvage`] found to be lost and that are still in the
    /// box.
    ///
    /// # Errors
    /// ENODEV if the box was deleted, ENOTTY if the module is older than the command.
    pub fn lost(&self) -> Result<Vec<LostFd>, BoxError> {
        self.0.lost()
    }

    /// Freezes the shape of everything in the box, checks dependencies and, if KHO is on, registers
    /// it for the next kernel. Content may still change. This walks all memory: do it while the
    /// guest runs.
    ///
    /// # Errors
    /// [`SealFailed`] returns the box and names the descriptor at fault.
    pub fn seal(self) -> Result<SealedBox, SealFailed> {
        match self.0.handle.seal() {
            Ok(()) => Ok(SealedBox(self.0)),
            Err((errno, report)) => {
                let error = self.0.error(Operation::Seal, errno);
                let report = report.as_deref().map(seal_report);
                Err(SealFailed {
                    open: self,
                    error: SealError { error, report },
                })
            }
        }
    }
}

impl AsFd for OpenBox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.handle.as_fd()
    }
}

/// A box whose contents are frozen in shape and, if KHO is on, reach the next kernel.
#[derive(Debug)]
pub struct SealedBox(Node);

impl SealedBox {
    pub(crate) fn new(handle: BoxHandle, name: BoxName) -> Self {
        Self(Node { handle, name })
    }

    /// The box's name.
    #[must_use]
    pub fn name(&self) -> &BoxName {
        &self.0.name
    }

    /// Lists the descriptors in the box.
    ///
    /// # Errors
    /// ENODEV if the box was deleted.
    pub fn fds(&self) -> Result<Vec<FdInfo>, BoxError> {
        self.0.fds()
    }

    /// Like [`OpenBox::get_and_keep`], of a box that the other kernel has: in a lifeboat of one that the host
    /// lends, in the host of one that the boat has. The file can be mapped for the time when this kernel has the
    /// box. Until then nothing may be written to it.
    ///
    /// # Errors
    /// EBUSY if it is sealed as any other box, EOPNOTSUPP if its kind cannot be lent.
    pub fn get_and_keep(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        let got = self.0.handle.get_fd(name.to_kernel(), abi::FDBOX_GET_KEEP);
        got.map_err(|errno| self.0.fd_error(Operation::Get, name, errno))
    }

    /// The exact inverse of [`OpenBox::seal`]. For descriptors from the last kernel, checks that
    /// none was lost in transit.
    ///
    /// # Errors
    /// [`UnsealFailed`] returns the box, and names what is lost (ENODATA).
    pub fn unseal(self) -> Result<OpenBox, UnsealFailed> {
        let done = self.0.handle.unseal();
        self.opened(Operation::Unseal, done)
    }

    /// Like [`unseal`](Self::unseal), even if descriptors are lost: the others can be taken out,
    /// and the lost ones stay listed ([`OpenBox::lost`]).
    ///
    /// # Errors
    /// [`UnsealFailed`] returns the box.
    pub fn salvage(self) -> Result<OpenBox, UnsealFailed> {
        let done = self.0.handle.salvage();
        self.opened(Operation::Salvage, done)
    }

    fn opened(self, how: Operation, done: Result<(), Errno>) -> Result<OpenBox, UnsealFailed> {
        match done {
            Ok(()) => Ok(OpenBox(self.0)),
            Err(errno) => {
                let error = self.0.unseal_error(how, errno);
                Err(UnsealFailed {
                    sealed: self,
                    error,
                })
            }
        }
    }
}

impl AsFd for SealedBox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.handle.as_fd()
    }
}

/// A box, in the state in which it was found.
#[derive(Debug)]
pub enum AnyBox<O = OpenBox, S = SealedBox> {
    /// The box is open.
    Open(O),
    /// The box is sealed.
    Sealed(S),
}

impl AnyBox {
    /// Makes a box from a descriptor that was opened by a program with CAP_SYS_ADMIN and passed on.
    /// This process then needs no capability to use the box. The name is for messages.
    ///
    /// # Errors
    /// EBADF if it is not a descriptor of a box, ENODEV if the box was deleted.
    pub fn from_fd(fd: OwnedFd, name: BoxName) -> Result<Self, BoxError> {
        let (node, sealed) = Node::passed(fd, name)?;
        Ok(match sealed {
            true => Self::Sealed(SealedBox(node)),
            false => Self::Open(OpenBox(node)),
        })
    }
}

impl<O, S> AnyBox<O, S> {
    /// The open box, or `None` if it is sealed.
    #[must_use]
    pub fn into_open(self) -> Option<O> {
        match self {
            Self::Open(open) => Some(open),
            Self::Sealed(_) => None,
        }
    }

    /// The sealed box, or `None` if it is open.
    #[must_use]
    pub fn into_sealed(self) -> Option<S> {
        match self {
            Self::Sealed(sealed) => Some(sealed),
            Self::Open(_) => None,
        }
    }
}
