//! Reasons why a device cannot be updated.
//!
//! Preflight must report what SEAL would refuse, before anything is sealed. The kernel decides from
//! its internal state; this looks at the same things from outside, in sysfs. What cannot be seen
//! there is left to SEAL, while the guest still runs.

use vmm_fdbox::Finding;

use super::host::{HostDevice, IommuKind};
use super::services::{self, Service};
use super::spec::PciAddress;

/// The remedy for most of them.
const END_OR_BINARY: &str = "end the guest before the update, or use --binary";
const SCALABLE_OFF: &str = "boot the host with intel_iommu=sm_off, or use --binary";

/// The kinds that the kernel can keep in a box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) iommufd: bool,
    pub(crate) vfio_pci: bool,
}

/// Reasons on this host why devices cannot go through a box. Root is needed to see them, so the
/// coordinator checks and not a VMM.
pub(crate) fn look(devices: impl IntoIterator<Item = PciAddress>) -> Vec<Finding> {
    let of_device = |address| match HostDevice::find(address) {
        Ok(device) => host(&device),
        Err(error) => vec![Finding::blocker(
            address.to_string(),
            error.to_string(),
            "put it right, then try again",
        )],
    };
    devices.into_iter().flat_map(of_device).collect()
}

/// The finding for a kernel without the patches.
pub(crate) fn unkept(address: PciAddress, kept: Kept) -> Option<Finding> {
    let what = match (kept.iommufd, kept.vfio_pci) {
        (true, true) => return None,
        (false, true) => "iommufd",
        (true, false) => "VFIO device",
        (false, false) => "iommufd and no VFIO device",
    };
    Some(Finding::blocker(
        address.to_string(),
        format!("this kernel keeps no {what} in a box"),
        "boot a kernel with the patches of kmod/patches, or use --binary",
    ))
}

/// What the kernel would refuse about a device when it seals.
pub(super) fn host(device: &HostDevice) -> Vec<Finding> {
    let name = device.address.to_string();
    let block = |problem: &str| Finding::blocker(&name, problem, END_OR_BINARY);
    let mut findings = match device.iommu {
        IommuKind::Intel | IommuKind::Amd => services_on(device),
        IommuKind::Other => vec![block(
            "its IOMMU is not known to keep its tables across a kexec",
        )],
    };
    if device.is_virtual {
        findings.push(block(
            "a virtual function (SR-IOV) cannot be kept: the next kernel would remove it",
        ));
    }
    if device.group_size > 1 {
        findings.push(block("it shares its IOMMU group with other devices"));
    }
    findings
}

/// Problems with what a device has the IOMMU do besides translating.
fn services_on(device: &HostDevice) -> Vec<Finding> {
    let name = device.address.to_string();
    match services::switched_on(&device.path) {
        Ok(services) => services
            .into_iter()
            .map(|service| used(device, service))
            .collect(),
        Err(error) => {
            let problem = format!("cannot find out whether ATS, PRI or PASID are on: {error}");
            vec![Finding::blocker(
                &name,
                problem,
                "put it right, then try again",
            )]
        }
    }
}

fn used(device: &HostDevice, service: Service) -> Finding {
    let problem = format!(
        "it uses {}, which cannot go on across a kexec",
        service.name()
    );
    let remedy = match service {
        Service::Ats => "boot the host with pci=noats, or use --binary",
        Service::Pri | Service::Pasid if device.iommu == IommuKind::Amd => END_OR_BINARY,
        Service::Pri | Service::Pasid => SCALABLE_OFF,
    };
    Finding::blocker(device.address.to_string(), problem, remedy)
}

/// All findings together.
#[cfg(test)]
fn findings(devices: &[PciAddress], kept: Kept) -> Vec<Finding> {
    let unkept = devices.iter().filter_map(|address| unkept(*address, kept));
    unkept.chain(look(devices.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::services::{ATS_AND_PASID, config_with};
    use super::*;

    const KEPT: Kept = Kept {
        iommufd: true,
        vfio_pci: true,
    };
    const NOTHING: Kept = Kept {
        iommufd: false,
        vfio_pci: false,
    };

    /// A device without problems, in its own sysfs.
    fn device() -> (tempfile::TempDir, HostDevice) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("config"), config_with(&[])).unwrap();
        let device = HostDevice {
            address: "0000:01:00.0".parse().unwrap(),
            path: root.path().into(),
            cdev: "/dev/vfio/devices/vfio0".into(),
            iommu: IommuKind::Intel,
            is_virtual: false,
            group_size: 1,
        };
        (root, device)
    }

    /// Asserts that each word is in a blocker of the device, and that there are no others.
    fn assert_blocked(found: &[Finding], words: &[&str]) {
        assert_eq!(found.len(), words.len(), "{found:?}");
        for word in words {
            let named = found.iter().find(|finding| finding.problem.contains(word));
            let named = named.unwrap_or_else(|| panic!("{word} is not in {found:?}"));
            assert!(named.is_blocker());
            assert_eq!(named.subject, "0000:01:00.0");
        }
    }

    #[test]
    fn a_device_in_good_order_is_no_obstacle() {
        let (_root, device) = device();
        assert_eq!(host(&device), []);
        let under_amd_vi = HostDevice {
            iommu: IommuKind::Amd,
            ..device.clone()
        };
        assert_eq!(host(&under_amd_vi), []);
        assert_eq!(unkept(device.address, KEPT), None);
        assert_eq!(findings(&[], NOTHING), [], "without a device it matters");
    }

    #[test]
    fn each_obstacle_is_named() {
        let (_root, good) = device();
        let bad = HostDevice {
            is_virtual: true,
            group_size: 2,
            ..good.clone()
        };
        assert_blocked(&host(&bad), &["virtual function", "IOMMU group"]);
        let strange = HostDevice {
            iommu: IommuKind::Other,
            ..good
        };
        assert_blocked(&host(&strange), &["not known"]);
    }

    #[test]
    fn ats_and_pasid_are_named() {
        let (root, device) = device();
        fs::write(root.path().join("config"), config_with(&ATS_AND_PASID)).unwrap();
        let found = host(&device);
        assert_blocked(&found, &["(ATS)", "(PASID)"]);
        assert!(found[0].remedy.contains("noats"), "{}", found[0]);
        assert!(found[1].remedy.contains("sm_off"), "{}", found[1]);
        let under_amd_vi = HostDevice {
            iommu: IommuKind::Amd,
            ..device
        };
        let found = host(&under_amd_vi);
        assert_blocked(&found, &["(ATS)", "(PASID)"]);
        assert!(!found[1].remedy.contains("sm_off"), "{}", found[1]);
    }

    #[test]
    fn what_cannot_be_read_blocks() {
        let (root, device) = device();
        fs::write(root.path().join("config"), [0; 64]).unwrap();
        let found = host(&device);
        assert_blocked(&found, &["takes root"]);
    }

    #[test]
    fn a_kernel_without_the_patches_is_named_for_each_device() {
        let address = "0000:01:00.0".parse().unwrap();
        let old = Kept {
            vfio_pci: false,
            ..KEPT
        };
        let found = unkept(address, old).unwrap();
        assert_blocked(std::slice::from_ref(&found), &["no VFIO device in a box"]);
        assert!(found.remedy.contains("kmod/patches"), "{found}");
        let two = [address, "ffff:ff:1f.7".parse().unwrap()];
        let found = findings(&two, NOTHING);
        for address in two {
            let of_device = |finding: &&Finding| {
                finding.subject == address.to_string() && finding.problem.contains("iommufd")
            };
            assert_eq!(found.iter().filter(of_device).count(), 1, "{found:?}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_blocks() {
        let found = findings(&["ffff:ff:1f.7".parse().unwrap()], KEPT);
        assert!(found[0].is_blocker());
        assert!(found[0].to_string().contains("There is no PCI device"));
    }
}
