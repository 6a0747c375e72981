//! Dependencies between the descriptors of a box.

use crate::kind::Kind;
use crate::listing::FdInfo;
use crate::name::FdName;
use crate::update::STATE_FD;

/// Kinds, and the kind that each needs in its box.
const NEEDS: [(Kind, Kind); 4] = [
    (Kind::GuestMemfd, Kind::KvmVm),
    (Kind::Iommufd, Kind::Memfd),
    (Kind::Iommufd, Kind::Hugetlb),
    (Kind::VfioPci, Kind::Iommufd),
];

/// A descriptor that cannot be kept without another one in its box.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dependency {
    /// The dependent descriptor.
    pub from: FdName,
    /// The descriptor it depends on.
    pub to: FdName,
}

/// The dependencies between the descriptors of one box, derived from their kinds.
///
/// A listing has kinds but no edges, so if there are several descriptors of a required kind, all of
/// them are returned. For a box with one VM and one iommufd the result is exact. Sealing checks the
/// actual dependencies.
#[must_use]
pub fn dependencies(fds: &[FdInfo]) -> Vec<Dependency> {
    let mut found = Vec::new();
    for fd in fds {
        let needed = NEEDS.iter().filter(|(kind, _)| *kind == Kind::of(&fd.kind));
        for (_, needed) in needed {
            let others = fds
                .iter()
                // Nothing maps the VM state, which is the library's own memory.
                .filter(|other| {
                    Kind::of(&other.kind) == *needed && other.name.to_string() != STATE_FD
                });
            found.extend(others.map(|other| Dependency {
                from: fd.name.clone(),
                to: other.name.clone(),
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::FdState;

    fn fd(name: &str, kind: &str) -> FdInfo {
        FdInfo {
            name: FdName::new(name).unwrap(),
            kind: kind.into(),
            state: FdState::Live,
            bytes: 0,
        }
    }

    fn edges(fds: &[FdInfo]) -> Vec<String> {
        let edges = dependencies(fds).into_iter();
        edges
            .map(|edge| format!("{} -> {}", edge.from, edge.to))
            .collect()
    }

    #[test]
    fn a_device_needs_its_iommufd_and_that_the_memory() {
        let fds = [
            fd("vfio0", "fdbox,vfio-pci-v1"),
            fd("vfio1", "fdbox,vfio-pci-v2"),
            fd("iommufd", "fdbox,iommufd-v1"),
            fd("memory0", "fdbox,memfd-v2"),
            fd("vm", "fdbox,kvm-vm-v1"),
            fd(STATE_FD, "fdbox,memfd-v2"),
        ];
        let expected = ["vfio0 -> iommufd", "vfio1 -> iommufd", "iommufd -> memory0"];
        assert_eq!(edges(&fds), expected);
    }

    #[test]
    fn a_guest_memfd_needs_its_vm_and_an_unknown_kind_nothing() {
        let fds = [
            fd("vm", "fdbox,kvm-vm-v1"),
            fd("ram", "fdbox,guest-memfd-v1"),
            fd("gpu", "acme,gpu-v3"),
            fd("odd", "fdbox,vfio-pci"),
        ];
        assert_eq!(edges(&fds), ["ram -> vm"]);
    }
}
