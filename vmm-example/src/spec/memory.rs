//! The guest's memory, as an operator asks for it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{MAX_MEMORY_MIB, MIB, MIN_MEMORY_MIB, SpecError};

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
}
