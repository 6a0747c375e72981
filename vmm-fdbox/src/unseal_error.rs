//! Why a box cannot be unsealed, and which descriptors were lost.

use std::fmt;

use rustix::io::Errno;

use crate::abi;
use crate::error::BoxError;
use crate::name::FdName;

/// Why a descriptor of the last kernel cannot be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// Nothing in this kernel restores its kind: a module may be missing.
    UnknownKind,
    /// The last kernel did not preserve its memory, or something else uses it.
    Memory,
    /// Something it depends on is not in the box.
    Dependency,
    /// Its saved state cannot be read.
    Data,
    /// Its driver refuses.
    Refused,
    /// Anything else.
    Other,
}

impl From<u32> for LostReason {
    fn from(reason: u32) -> Self {
        match reason {
            abi::FDBOX_LOST_UNKNOWN_KIND => Self::UnknownKind,
            abi::FDBOX_LOST_MEMORY => Self::Memory,
            abi::FDBOX_LOST_DEPENDENCY => Self::Dependency,
            abi::FDBOX_LOST_DATA => Self::Data,
            abi::FDBOX_LOST_REFUSED => Self::Refused,
            _ => Self::Other,
        }
    }
}

/// A descriptor that prevents a box from being unsealed, as reported by the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostFd {
    /// The descriptor.
    pub name: FdName,
    /// The compatible string of its kind.
    pub kind: String,
    /// The errno that taking it out would return.
    pub errno: Errno,
    /// The category of the problem.
    pub reason: LostReason,
    /// What is missing and what to do, in English; may be empty.
    pub message: String,
}

impl fmt::Display for LostFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' ({}): ", self.name, self.kind)?;
        match self.message.as_str() {
            "" => write!(f, "{}", std::io::Error::from(self.errno)),
            message => f.write_str(message),
        }
    }
}

/// Why a box was not unsealed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnsealError {
    /// The ioctl's error.
    pub error: BoxError,
    /// The lost descriptors, if the kernel reported them.
    pub lost: Vec<LostFd>,
}

impl UnsealError {
    /// The kernel's errno.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.error.errno()
    }
}

impl fmt::Display for UnsealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        for (at, lost) in self.lost.iter().enumerate() {
            let before = if at == 0 { ": " } else { "; " };
            write!(f, "{before}{lost}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UnsealError {}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::error::Operation;

    #[test]
    fn an_unseal_error_names_each_lost_descriptor_and_why() {
        let lost = |name: &str, message: &str| LostFd {
            name: FdName::new(name).unwrap(),
            kind: "fdbox,sample-v1".to_owned(),
            errno: Errno::IO,
            reason: LostReason::Memory,
            message: message.to_owned(),
        };
        let error = UnsealError {
            error: BoxError::new(Operation::Unseal, "box vm0", Errno::NODATA),
            lost: vec![lost("ram", "its memory was not kept"), lost("other", "")],
        };
        let text = error.to_string();
        assert!(text.starts_with("Cannot unseal box vm0: "), "{text}");
        assert!(
            text.contains(": 'ram' (fdbox,sample-v1): its memory was not kept; 'other' "),
            "{text}"
        );
        assert!(text.contains("os error 5"), "{text}");
    }
}
