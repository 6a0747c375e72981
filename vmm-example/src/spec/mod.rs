//! The operator's requests, parsed and checked: plain values, no resources.

mod memory;

use std::fmt;
use std::io;
use std::path::{PathBuf, absolute};
use std::str::FromStr;

use thiserror::Error;

pub(crate) use self::memory::{HugePage, MemoryKind, MemorySpec};

/// The number of bytes in a MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// The smallest guest that boots a Linux kernel, in MiB.
const MIN_MEMORY_MIB: u64 = 64;
/// The largest guest, in MiB: what every x86-64 CPU with KVM can address.
const MAX_MEMORY_MIB: u64 = 512 << 10;
/// APIC IDs have 8 bits; one is used by the I/O APIC, and one means all.
pub(crate) const MAX_CPUS: u8 = 254;

/// Why an option's value is invalid.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum SpecError {
    #[error("Unknown key {key:?}: the keys are {known}")]
    UnknownKey { key: String, known: &'static str },
    #[error("{part:?} is not key=value")]
    NotKeyValue { part: String },
    #[error("Size {value:?} is not a number with a K, M or G suffix, like 512M")]
    BadSize { value: String },
    #[error("Memory size {mib} MiB is out of range: {MIN_MEMORY_MIB}M to {MAX_MEMORY_MIB}M")]
    SizeOutOfRange { mib: u64 },
    #[error("Memory size {bytes} is not a whole number of MiB")]
    SizeNotMib { bytes: u64 },
    #[error("Memory kind {value:?} is unknown: use guest_memfd, memfd or hugetlb")]
    BadKind { value: String },
    #[error("Huge page {value:?} is unknown: use 2M or 1G")]
    BadPage { value: String },
    #[error("page= is for kind=hugetlb")]
    PageOfOtherKind,
    #[error("Memory size {mib} MiB is not a whole number of huge pages of {page}")]
    SizeNotPages { mib: u64, page: HugePage },
    #[error("Console {value:?} is unknown: use stdio, file=PATH or socket=PATH")]
    BadConsole { value: String },
    #[error("{what} {value:?} is invalid: it must be {expected}")]
    BadValue {
        what: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("{key} is missing")]
    MissingKey { key: &'static str },
    #[error("{key} is given more than once")]
    RepeatedKey { key: String },
}

/// The destination of the guest's serial port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ConsoleSpec {
    /// The VMM's own standard input and output.
    #[default]
    Stdio,
    /// Appended to a file; no input.
    File(PathBuf),
    /// A Unix socket that serves one client at a time.
    Socket(PathBuf),
}

impl fmt::Display for ConsoleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::File(path) => write!(f, "file={}", path.display()),
            Self::Socket(path) => write!(f, "socket={}", path.display()),
        }
    }
}

impl ConsoleSpec {
    /// The same, independent of the working directory.
    pub(crate) fn absolute(self) -> io::Result<Self> {
        Ok(match self {
            Self::Stdio => self,
            Self::File(path) => Self::File(absolute(path)?),
            Self::Socket(path) => Self::Socket(absolute(path)?),
        })
    }
}

impl FromStr for ConsoleSpec {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::BadConsole {
            value: value.into(),
        };
        match value.split_once('=') {
            None if value == "stdio" => Ok(Self::Stdio),
            Some((_, "")) => Err(bad()),
            Some(("file", path)) => Ok(Self::File(path.into())),
            Some(("socket", path)) => Ok(Self::Socket(path.into())),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_parse() {
        assert_eq!("stdio".parse(), Ok(ConsoleSpec::Stdio));
        assert_eq!(
            "file=/tmp/log".parse(),
            Ok(ConsoleSpec::File("/tmp/log".into()))
        );
        assert_eq!(
            "socket=/run/c".parse(),
            Ok(ConsoleSpec::Socket("/run/c".into()))
        );
        for spec in ["stdio", "file=/tmp/log", "socket=/run/c"] {
            assert_eq!(spec.parse::<ConsoleSpec>().unwrap().to_string(), spec);
        }
        for bad in ["", "file", "file=", "tty=/dev/ttyS0"] {
            assert!(bad.parse::<ConsoleSpec>().is_err(), "{bad:?} parsed");
        }
    }
}
