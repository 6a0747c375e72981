//! The VM state frame: what one VMM writes and another reads.
//!
//! It can be validated without decoding its contents: a header, payloads, and a table of named
//! sections. All integers are little-endian.
//!
//! ```text
//! HEADER, 128 bytes               TABLE ENTRY, 64 bytes
//!   0   8  magic "FDBXVMST"         0  32  name, NUL-padded
//!   8   2  format major: 1         32   4  section version
//!  10   2  format minor: 0         36   4  flags: bit 0 required
//!  12   4  bytes of header         40   8  offset from the frame's start
//!  16  16  architecture            48   8  length in bytes
//!  32  48  producer                56   4  CRC-32 of the payload
//!  80   8  generation              60   4  0
//!  88   8  offset of the table
//!  96   8  bytes of the frame
//! 104   4  sections
//! 108   4  bytes of a table entry
//! 112   8  0
//! 120   4  complete: "DONE"
//! 124   4  CRC-32 (IEEE) of bytes 0 to 123 and the table
//! ```
//!
//! The header is cleared first and written last, so that a frame whose writer was interrupted can
//! be told from a complete one.
//!
//! Payloads are CBOR maps, so a reader finds fields by name: a new field is optional to older
//! readers, a missing one has a default. The effect of a change:
//!
//! | change | bump |
//! |---|---|
//! | a field that old readers may ignore | nothing |
//! | a field that old readers must not ignore | the section's version |
//! | a section that old readers may ignore | nothing: write it as optional |
//! | a section that old readers must not ignore | nothing: write it as required |
//! | the frame itself, old readers can go on | format minor |
//! | the frame itself, old readers cannot | format major |
//!
//! The checksums detect torn and corrupt memory. They do not authenticate.

mod description;
mod known;
mod layout;
mod opaque;
mod reader;
mod writer;

pub use description::{DescribedSection, Description};
pub use known::KnownSection;
pub(crate) use layout::announced_bytes;
pub use opaque::Opaque;
pub use reader::{Frame, Section};
pub use writer::{FrameWriter, measure};

/// Bytes of the header that this library writes.
pub const HEADER_BYTES: usize = 128;
/// Bytes of a table entry that this library writes.
pub const ENTRY_BYTES: usize = 64;
/// The major format version that this library reads and writes.
pub const FORMAT_MAJOR: u16 = 1;
/// The minor format version that this library writes.
pub const FORMAT_MINOR: u16 = 0;
/// The maximum number of sections in a frame.
pub const MAX_SECTIONS: usize = 4096;
/// The maximum size of a frame in bytes.
pub const MAX_FRAME_BYTES: usize = 256 << 20;
/// The maximum length of a section name in bytes.
pub const MAX_SECTION_NAME_BYTES: usize = 32;
/// The maximum length of the producer string in bytes; a longer one is truncated.
pub const MAX_PRODUCER_BYTES: usize = 48;

/// What a reader that does not know a section must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Refuse the frame.
    Required,
    /// Ignore the section.
    Optional,
}

/// Why a value could not be converted to or from CBOR.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CborError(Box<dyn std::error::Error + Send + Sync>);

impl CborError {
    fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

/// Why a frame, or a section of it, cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Nothing was ever written.
    #[error("VM state is empty: the VMM that should have written it did not get that far")]
    Empty,
    /// The writer was stopped before the end.
    #[error("VM state is incomplete: its writer was stopped half-way, the state is lost")]
    Incomplete,
    /// The data does not start like a frame.
    #[error("VM state has no frame: the first 8 bytes are not 'FDBXVMST'")]
    BadMagic,
    /// A format that this library does not read.
    #[error(
        "VM state has format {major}.{minor}, this binary reads {FORMAT_MAJOR}.x: use the VMM that wrote it or a newer one"
    )]
    UnknownFormat {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// A length, offset or count that is impossible.
    #[error("VM state is corrupt: {what} is {value}")]
    BadLayout {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Header or table do not match their checksum.
    #[error("VM state is corrupt: header checksum {found:#010x}, computed {computed:#010x}")]
    BadHeaderChecksum {
        /// As stored.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// A payload does not match its checksum.
    #[error("VM state is corrupt: section '{name}' does not match its checksum")]
    BadSectionChecksum {
        /// The section.
        name: String,
    },
    /// A section name that is empty or contains bytes that are not allowed.
    #[error("Section name '{name}' is not 1 to 32 of a-z, 0-9, '-', '_', '.', '/'")]
    BadSectionName {
        /// The name, made printable.
        name: String,
    },
    /// Two sections with the same name.
    #[error("Section '{name}' is there twice")]
    DuplicateSection {
        /// The name.
        name: String,
    },
    /// A section that the reader asked for is missing.
    #[error("VM state has no section '{name}'")]
    MissingSection {
        /// The name.
        name: String,
    },
    /// No space left.
    #[error(
        "VM state needs {needed} bytes, there is room for {capacity}: ask for a larger state memfd"
    )]
    TooLarge {
        /// Bytes that the frame would need so far.
        needed: usize,
        /// Bytes available.
        capacity: usize,
    },
    /// More sections than [`MAX_SECTIONS`].
    #[error("VM state has more than {MAX_SECTIONS} sections")]
    TooManySections,
    /// A value that cannot be written as CBOR.
    #[error("Cannot encode section '{name}'")]
    Encode {
        /// The section.
        name: String,
        /// The encoder's error.
        source: CborError,
    },
    /// A payload that is not what the reader expects.
    #[error("Cannot decode section '{name}'")]
    Decode {
        /// The section.
        name: String,
        /// The decoder's error.
        source: CborError,
    },
    /// A payload with data after its value.
    #[error("Section '{name}' has {bytes} bytes behind its value")]
    TrailingBytes {
        /// The section.
        name: String,
        /// The number of bytes.
        bytes: usize,
    },
}

impl FrameError {
    /// Whether no binary can read the frame, not just this one.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::Incomplete
                | Self::BadMagic
                | Self::BadLayout { .. }
                | Self::BadHeaderChecksum { .. }
                | Self::BadSectionChecksum { .. }
        )
    }
}

#[cfg(test)]
mod tests;
