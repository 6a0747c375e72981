//! Why a box cannot be sealed, and which descriptor is at fault.

use std::fmt;

use crate::abi;
use crate::error::BoxError;
use crate::name::FdName;

/// Why a descriptor, or the box as a whole, could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealReason {
    /// Something that the descriptor depends on is not in the box.
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

/// The descriptor that prevented a box from being sealed, as reported by the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealReport {
    /// The descriptor; `None` if the box as a whole is at fault.
    pub name: Option<FdName>,
    /// The category of the problem.
    pub reason: SealReason,
    /// What is missing and what to do, in English.
    pub message: String,
}

/// Why a box was not sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealError {
    /// The ioctl's error.
    pub error: BoxError,
    /// The descriptor and the reason, if the kernel reported them.
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    use crate::error::Operation;

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
}
