//! The operator's requests, parsed and checked: plain values, no resources.

use std::fmt;
use std::io;
use std::path::{PathBuf, absolute};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

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

/// The kind of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MemoryKind {
    /// KVM's own file: the memory belongs to the VM; mappable and fully shared.
    GuestMemfd,
    /// A shmem file.
    Memfd,
    /// A file of huge pages from the host's pool.
    Hugetlb,
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GuestMemfd => "guest_memfd",
            Self::Memfd => "memfd",
            Self::Hugetlb => "hugetlb",
        })
    }
}

impl FromStr for MemoryKind {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        match value {
            "guest_memfd" => Ok(Self::GuestMemfd),
            "memfd" => Ok(Self::Memfd),
            "hugetlb" => Ok(Self::Hugetlb),
            _ => Err(SpecError::BadKind {
                value: value.into(),
            }),
        }
    }
}

/// The size of a huge page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HugePage {
    #[default]
    TwoMib,
    OneGib,
}

impl HugePage {
    /// In MiB.
    const fn mib(self) -> u64 {
        match self {
            Self::TwoMib => 2,
            Self::OneGib => 1024,
        }
    }
}

impl fmt::Display for HugePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoMib => "2M",
            Self::OneGib => "1G",
        })
    }
}

impl FromStr for HugePage {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        match value {
            "2M" => Ok(Self::TwoMib),
            "1G" => Ok(Self::OneGib),
            _ => Err(SpecError::BadPage {
                value: value.into(),
            }),
        }
    }
}

/// `size=256M,kind=guest_memfd`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemorySpec {
    /// In MiB. Default: 256.
    pub(crate) mib: u64,
    /// Default: guest_memfd.
    pub(crate) kind: MemoryKind,
    /// Of hugetlb. Default: 2 MiB.
    pub(crate) page: HugePage,
}

impl MemorySpec {
    /// The size in bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.mib * MIB
    }
}

impl Default for MemorySpec {
    fn default() -> Self {
        Self {
            mib: 256,
            kind: MemoryKind::GuestMemfd,
            page: HugePage::default(),
        }
    }
}

impl fmt::Display for MemorySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "size={}M,kind={}", self.mib, self.kind)?;
        match self.kind {
            MemoryKind::Hugetlb => write!(f, ",page={}", self.page),
            MemoryKind::GuestMemfd | MemoryKind::Memfd => Ok(()),
        }
    }
}

impl FromStr for MemorySpec {
    type Err = SpecError;

    fn from_str(value: &str) -> Result<Self, SpecError> {
        let mut spec = Self::default();
        let mut seen = Vec::new();
        for part in value.split(',') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| SpecError::NotKeyValue { part: part.into() })?;
            if seen.contains(&key) {
                return Err(SpecError::RepeatedKey { key: key.into() });
            }
            seen.push(key);
            match key {
                "size" => spec.mib = parse_mib(value)?,
                "kind" => spec.kind = value.parse()?,
                "page" => spec.page = value.parse()?,
                _ => {
                    return Err(SpecError::UnknownKey {
                        key: key.into(),
                        known: "size, kind, page",
                    });
                }
            }
        }
        let (mib, page) = (spec.mib, spec.page);
        match spec.kind {
            MemoryKind::Hugetlb if mib % page.mib() != 0 => {
                Err(SpecError::SizeNotPages { mib, page })
            }
            MemoryKind::GuestMemfd | MemoryKind::Memfd if seen.contains(&"page") => {
                Err(SpecError::PageOfOtherKind)
            }
            _ => Ok(spec),
        }
    }
}

/// Parses a size with its suffix and checks that a guest of that size can be built.
fn parse_mib(value: &str) -> Result<u64, SpecError> {
    let bad = || SpecError::BadSize {
        value: value.into(),
    };
    let (digits, unit) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&value[..value.len() - 1], MIB),
        Some(b'G' | b'g') => (&value[..value.len() - 1], 1 << 30),
        _ => (value, 1),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let bytes = number.checked_mul(unit).ok_or_else(bad)?;
    if bytes % MIB != 0 {
        return Err(SpecError::SizeNotMib { bytes });
    }
    let mib = bytes / MIB;
    if (MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&mib) {
        Ok(mib)
    } else {
        Err(SpecError::SizeOutOfRange { mib })
    }
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
    fn memory_has_defaults_for_what_is_not_given() {
        assert_eq!(
            "size=1G".parse(),
            Ok(MemorySpec {
                mib: 1024,
                kind: MemoryKind::GuestMemfd,
                page: HugePage::TwoMib
            })
        );
        assert_eq!(
            "kind=memfd".parse(),
            Ok(MemorySpec {
                mib: 256,
                kind: MemoryKind::Memfd,
                page: HugePage::TwoMib
            })
        );
        assert_eq!(
            "kind=memfd,size=524288K".parse(),
            Ok(MemorySpec {
                mib: 512,
                kind: MemoryKind::Memfd,
                page: HugePage::TwoMib
            })
        );
    }

    #[test]
    fn huge_pages_have_a_size() {
        let huge = |mib, page| {
            Ok(MemorySpec {
                mib,
                kind: MemoryKind::Hugetlb,
                page,
            })
        };
        let parse = |value: &str| value.parse::<MemorySpec>();
        assert_eq!(parse("kind=hugetlb"), huge(256, HugePage::TwoMib));
        assert_eq!(parse("page=2M,kind=hugetlb"), huge(256, HugePage::TwoMib));
        assert_eq!(
            parse("size=2G,kind=hugetlb,page=1G"),
            huge(2048, HugePage::OneGib)
        );
        for (value, error) in [
            ("page=2M", SpecError::PageOfOtherKind),
            ("page=2M,kind=memfd", SpecError::PageOfOtherKind),
            (
                "kind=hugetlb,page=4K",
                SpecError::BadPage { value: "4K".into() },
            ),
            (
                "kind=hugetlb,size=65M",
                SpecError::SizeNotPages {
                    mib: 65,
                    page: HugePage::TwoMib,
                },
            ),
            (
                "kind=hugetlb,page=1G",
                SpecError::SizeNotPages {
                    mib: 256,
                    page: HugePage::OneGib,
                },
            ),
        ] {
            assert_eq!(parse(value), Err(error), "{value}");
        }
    }

    #[test]
    fn memory_names_what_is_wrong() {
        let parse = |value: &str| value.parse::<MemorySpec>().unwrap_err();
        assert_eq!(
            parse("512M"),
            SpecError::NotKeyValue {
                part: "512M".into()
            }
        );
        assert_eq!(
            parse("size=lots"),
            SpecError::BadSize {
                value: "lots".into()
            }
        );
        assert_eq!(parse("size="), SpecError::BadSize { value: "".into() });
        assert_eq!(parse("size=é"), SpecError::BadSize { value: "é".into() });
        assert_eq!(parse("size=1M"), SpecError::SizeOutOfRange { mib: 1 });
        assert_eq!(
            parse("size=8192G"),
            SpecError::SizeOutOfRange { mib: 8 << 20 }
        );
        assert_eq!(
            parse("size=65537K"),
            SpecError::SizeNotMib { bytes: 65537 << 10 }
        );
        assert_eq!(
            parse("size=99999999999999999G"),
            SpecError::BadSize {
                value: "99999999999999999G".into()
            }
        );
        assert_eq!(
            parse("kind=ram"),
            SpecError::BadKind {
                value: "ram".into()
            }
        );
        assert_eq!(
            parse("size=1G,size=2G"),
            SpecError::RepeatedKey { key: "size".into() }
        );
        assert!(matches!(
            parse("hugepages=on"),
            SpecError::UnknownKey { .. }
        ));
    }

    #[test]
    fn a_memory_spec_prints_as_it_is_parsed() {
        for kind in [
            MemoryKind::GuestMemfd,
            MemoryKind::Memfd,
            MemoryKind::Hugetlb,
        ] {
            let spec = MemorySpec {
                mib: 640,
                kind,
                page: HugePage::TwoMib,
            };
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }

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
