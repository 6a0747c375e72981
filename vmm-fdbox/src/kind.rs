//! The kinds of files that a box can keep.

use std::fmt;

/// The kind of a file in a box, regardless of its version.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// Memory.
    Memfd,
    /// A KVM VM.
    KvmVm,
    /// Memory of a VM.
    GuestMemfd,
    /// Address spaces of devices.
    Iommufd,
    /// A PCI device of the host.
    VfioPci,
    /// Memory in huge pages.
    Hugetlb,
    /// A kind that this library does not know.
    #[serde(other)]
    Other,
}

/// Compatible strings without their versions.
const FAMILIES: [(&str, Kind); 7] = [
    ("fdbox,memfd", Kind::Memfd),
    ("keeper,memfd", Kind::Memfd),
    ("fdbox,kvm-vm", Kind::KvmVm),
    ("fdbox,guest-memfd", Kind::GuestMemfd),
    ("fdbox,iommufd", Kind::Iommufd),
    ("fdbox,vfio-pci", Kind::VfioPci),
    ("fdbox,hugetlb", Kind::Hugetlb),
];

impl Kind {
    /// Whether devices access memory through it and continue to do so in the next kernel.
    pub(crate) fn reaches_memory(self) -> bool {
        matches!(self, Self::Iommufd | Self::VfioPci)
    }

    /// The kind of a compatible string, such as `fdbox,memfd-v1`.
    #[must_use]
    pub fn of(compatible: &str) -> Self {
        let family = match compatible.rsplit_once("-v") {
            Some((family, version)) if version.bytes().all(|byte| byte.is_ascii_digit()) => family,
            _ => return Self::Other,
        };
        let known = FAMILIES.iter().find(|(name, _)| *name == family);
        known.map_or(Self::Other, |(_, kind)| *kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memfd => "memfds",
            Self::KvmVm => "VMs",
            Self::GuestMemfd => "guest_memfds",
            Self::Iommufd => "iommufds",
            Self::VfioPci => "VFIO devices",
            Self::Hugetlb => "huge pages",
            Self::Other => "files of other kinds",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_kind_does_not_matter() {
        assert_eq!(Kind::of("fdbox,vfio-pci-v1"), Kind::VfioPci);
        assert_eq!(Kind::of("fdbox,vfio-pci-v22"), Kind::VfioPci);
        assert_eq!(Kind::of("keeper,memfd-v1"), Kind::Memfd);
        for other in ["fdbox,vfio-pci", "acme,gpu-v3", "acme,tool-very", "", "-v1"] {
            assert_eq!(Kind::of(other), Kind::Other, "{other:?}");
        }
    }
}
