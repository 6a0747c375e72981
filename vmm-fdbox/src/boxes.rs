//! Boxes: open ones take and give descriptors, sealed ones keep them.
//!
//! ```text
//!            put, take                          nothing
//!           ┌─────────┐                       ┌─────────┐
//! create ─▶ │ OpenBox │ ──── seal ──────────▶ │SealedBox│ ── kexec ─▶ SealedBox
//!           └─────────┘ ◀─── unseal ───────── └─────────┘
//! ```
//!
//! A box outlives its values: dropping an [`OpenBox`] closes a handle, and the
//! box stays until [`Control::delete`](crate::Control::delete) or a reboot.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::abi;
use crate::error::{BoxError, Operation};
use crate::name::{BoxName, FdName};
use crate::sys;

/// The directory with the control node and every box.
pub(crate) const DIRECTORY: &str = "/dev/fdbox";

/// How a descriptor lies in its box.
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

/// A descriptor in a box, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdInfo {
    /// Its name in the box.
    pub name: FdName,
    /// Its kind: the compatible string under which it crosses a kexec.
    pub kind: String,
    /// How it lies there.
    pub state: FdState,
    /// Memory that it holds, in bytes; 0 if it holds none.
    pub bytes: u64,
}

/// A descriptor that a box refused; it comes back, still open.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct PutError {
    /// The descriptor.
    pub fd: OwnedFd,
    /// Why.
    pub error: BoxError,
}

/// Why a descriptor, or the box as a whole, could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealReason {
    /// What the descriptor depends on is not in the box.
    MissingDependency,
    /// The file is held by another sealed box or by LUO.
    SharedFile,
    /// The descriptor is in a state that its kind cannot carry.
    UnsupportedState,
    /// The kernel is out of memory.
    NoMemory,
    /// Anything else.
    Other,
}

impl From<u32> for SealReason {
    fn from(reason: u32) -> Self {
        match reason {
            abi::FDBOX_REASON_MISSING_DEPENDENCY => Self::MissingDependency,
            abi::FDBOX_REASON_SHARED_FILE => Self::SharedFile,
            abi::FDBOX_REASON_UNSUPPORTED_STATE => Self::UnsupportedState,
            abi::FDBOX_REASON_NO_MEMORY => Self::NoMemory,
            _ => Self::Other,
        }
    }
}

/// Which descriptor kept a box from being sealed, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealReport {
    /// The descriptor; `None` when it was the box as a whole.
    pub name: Option<FdName>,
    /// What kind of trouble it is.
    pub reason: SealReason,
    /// What is missing and what to do, in English.
    pub message: String,
}

/// Why a box was not sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealError {
    /// The ioctl's error.
    pub error: BoxError,
    /// Which descriptor, and why, when the kernel tells.
    pub report: Option<SealReport>,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.report {
            Some(SealReport {
                name: Some(name),
                message,
                ..
            }) if !message.is_empty() => {
                write!(f, "{}: '{name}': {message}", self.error)
            }
            Some(SealReport {
                name: Some(name), ..
            }) => write!(f, "{}: '{name}'", self.error),
            Some(SealReport { message, .. }) if !message.is_empty() => {
                write!(f, "{}: {message}", self.error)
            }
            _ => write!(f, "{}", self.error),
        }
    }
}

impl std::error::Error for SealError {}

/// A box that was not sealed; it comes back as it was, open.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct SealFailed<B = OpenBox> {
    /// The box, open.
    pub open: B,
    /// Why.
    pub error: SealError,
}

/// A box that was not unsealed; it comes back as it was, sealed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct UnsealFailed<B = SealedBox> {
    /// The box, sealed.
    pub sealed: B,
    /// Why.
    pub error: BoxError,
}

#[derive(Debug)]
struct Node {
    fd: OwnedFd,
    name: BoxName,
}

impl Node {
    fn open(name: BoxName) -> Result<Self, BoxError> {
        let mut path = format!("{DIRECTORY}/").into_bytes();
        path.extend_from_slice(name.as_bytes());
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| BoxError::new(Operation::OpenBox, format!("box {name}"), errno))?;
        Ok(Self { fd, name })
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
        while let Some(next) = sys::next_fd(self.fd.as_fd(), cursor)
            .map_err(|errno| self.error(Operation::List, errno))?
        {
            let name = FdName::from_kernel(&next.name)
                .map_err(|error| BoxError::bad_name(format!("box {}", self.name), &error))?;
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

    fn seal_report(&self) -> Option<SealReport> {
        let report = sys::seal_error(self.fd.as_fd()).ok().flatten()?;
        Some(SealReport {
            name: FdName::from_kernel(&report.name).ok(),
            reason: report.reason.into(),
            message: text(&report.message),
        })
    }
}

/// The next cursor; `None` if the module did not advance it, which would loop
/// for ever.
pub(crate) fn advance(old: u64, new: u64) -> Option<u64> {
    (new > old).then_some(new)
}

/// The text before the first NUL of a kernel array.
fn text(array: &[u8]) -> String {
    let end = array.iter().position(|&b| b == 0).unwrap_or(array.len());
    String::from_utf8_lossy(&array[..end]).into_owned()
}

/// A box that takes and gives descriptors.
#[derive(Debug)]
pub struct OpenBox(Node);

impl OpenBox {
    pub(crate) fn open(name: BoxName) -> Result<Self, BoxError> {
        Node::open(name).map(Self)
    }

    /// The box's name.
    #[must_use]
    pub fn name(&self) -> &BoxName {
        &self.0.name
    }

    /// Moves a descriptor into the box. The process no longer has it.
    ///
    /// # Errors
    /// [`PutError`] gives the descriptor back: EEXIST the name is taken,
    /// EOPNOTSUPP nobody can keep this kind, EBUSY the box was sealed meanwhile.
    pub fn put(&self, name: &FdName, fd: OwnedFd) -> Result<(), PutError> {
        sys::put_fd(self.0.fd.as_fd(), name.to_kernel(), fd).map_err(|(fd, errno)| PutError {
            fd,
            error: self.0.fd_error(Operation::Put, name, errno),
        })
    }

    /// Moves a descriptor out of the box. It is close-on-exec.
    ///
    /// # Errors
    /// ENOENT no such name, EMFILE no free number, EOPNOTSUPP nothing restores
    /// its kind yet, EIO what was saved cannot be restored, EBUSY the box was
    /// sealed meanwhile. It is still in the box then.
    pub fn get(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        sys::get_fd(self.0.fd.as_fd(), name.to_kernel())
            .map_err(|errno| self.0.fd_error(Operation::Get, name, errno))
    }

    /// What is in the box.
    ///
    /// # Errors
    /// ENODEV when the box was deleted.
    pub fn fds(&self) -> Result<Vec<FdInfo>, BoxError> {
        self.0.fds()
    }

    /// Freezes the shape of everything in the box, checks what it depends on
    /// and, where KHO is on, registers it for the next kernel. Content may go on
    /// changing. Walks memory: do it while the guest runs.
    ///
    /// # Errors
    /// [`SealFailed`] gives the box back and names the descriptor at fault.
    pub fn seal(self) -> Result<SealedBox, SealFailed> {
        match sys::seal(self.0.fd.as_fd()) {
            Ok(()) => Ok(SealedBox(self.0)),
            Err(errno) => {
                let error = self.0.error(Operation::Seal, errno);
                let report = self.0.seal_report();
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
        self.0.fd.as_fd()
    }
}

/// A box whose content is frozen in shape and, where KHO is on, reaches the
/// next kernel.
#[derive(Debug)]
pub struct SealedBox(Node);

impl SealedBox {
    pub(crate) fn open(name: BoxName) -> Result<Self, BoxError> {
        Node::open(name).map(Self)
    }

    /// The box's name.
    #[must_use]
    pub fn name(&self) -> &BoxName {
        &self.0.name
    }

    /// What is in the box.
    ///
    /// # Errors
    /// ENODEV when the box was deleted.
    pub fn fds(&self) -> Result<Vec<FdInfo>, BoxError> {
        self.0.fds()
    }

    /// The exact inverse of [`OpenBox::seal`].
    ///
    /// # Errors
    /// [`UnsealFailed`] gives the box back.
    pub fn unseal(self) -> Result<OpenBox, UnsealFailed> {
        match sys::unseal(self.0.fd.as_fd()) {
            Ok(()) => Ok(OpenBox(self.0)),
            Err(errno) => {
                let error = self.0.error(Operation::Unseal, errno);
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
        self.0.fd.as_fd()
    }
}

/// A box in whichever state it was found.
#[derive(Debug)]
pub enum AnyBox<O = OpenBox, S = SealedBox> {
    /// It is open.
    Open(O),
    /// It is sealed.
    Sealed(S),
}

impl<O, S> AnyBox<O, S> {
    /// The open box, or `None`.
    #[must_use]
    pub fn into_open(self) -> Option<O> {
        match self {
            Self::Open(open) => Some(open),
            Self::Sealed(_) => None,
        }
    }

    /// The sealed box, or `None`.
    #[must_use]
    pub fn into_sealed(self) -> Option<S> {
        match self {
            Self::Sealed(sealed) => Some(sealed),
            Self::Open(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_error_names_the_descriptor() {
        let error = BoxError::new(Operation::Seal, "box vm0", Errno::NOENT);
        let report = SealReport {
            name: Some(FdName::new("ram").unwrap()),
            reason: SealReason::MissingDependency,
            message: "its VM is not in the box: put the VM in too".to_owned(),
        };
        let text = SealError {
            error,
            report: Some(report),
        }
        .to_string();
        assert!(text.starts_with("Cannot seal box vm0: "), "{text}");
        assert!(
            text.ends_with("'ram': its VM is not in the box: put the VM in too"),
            "{text}"
        );
    }

    #[test]
    fn a_cursor_that_stands_still_is_refused() {
        assert_eq!(advance(3, 4), Some(4));
        assert_eq!(advance(3, 3), None);
    }
}
