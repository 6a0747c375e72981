//! Errors of kernel images.

use std::io;

/// Why a file is not a kernel that can be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file ends within the header.
    #[error("it is too short for a kernel image")]
    TooShort,
    /// It has another kind of header.
    #[error("it is not a kernel image")]
    NoImage,
    /// It is for 32 bits, or too old.
    #[error("it is a kernel without a 64-bit entry point")]
    No64Bit,
    /// It is built without `CONFIG_RELOCATABLE`.
    #[error("it is a kernel that is not relocatable")]
    NotRelocatable,
    /// It is incomplete.
    #[error("it is cut short: it has {bytes} bytes, and its header says {expected_bytes}")]
    Truncated {
        /// The actual size of the file.
        bytes: u64,
        /// The minimum size of the complete file.
        expected_bytes: u64,
    },
    /// Its header contradicts itself.
    #[error("it is damaged: its {0} is outside of it")]
    Damaged(&'static str),
    /// It cannot be read.
    #[error("it cannot be read ({0})")]
    Read(#[from] io::Error),
}
