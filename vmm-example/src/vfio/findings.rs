//! What of a device stands in the way of an update.

use vmm_fdbox::Finding;

use super::host::{HostDevice, IommuKind};
use super::spec::PciAddress;

/// What the kernel can keep in a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) iommufd: bool,
    pub(crate) vfio_pci: bool,
}

/// What keeps the devices of a guest from going through a box.
pub(crate) fn findings(devices: &[PciAddress], kept: Kept) -> Vec<Finding> {
    if devices.is_empty() {
        return Vec::new();
    }
    let mut findings = kernel(kept);
    for address in devices {
        match HostDevice::find(*address) {
            Ok(device) => findings.extend(host(&device)),
            Err(error) => findings.push(Finding::blocker(
                address.to_string(),
                error.to_string(),
                "put it right, then try again",
            )),
        }
    }
    findings
}

fn kernel(kept: Kept) -> Vec<Finding> {
    let missing = [(kept.iommufd, "iommufd"), (kept.vfio_pci, "vfio-pci")];
    missing
        .into_iter()
        .filter(|(kept, _)| !kept)
        .map(|(_, kind)| {
            Finding::blocker(
                kind,
                "this kernel cannot keep its descriptors in a box",
                "boot a kernel with the patches of kmod/patches, or use --binary",
            )
        })
        .collect()
}

/// What the kernel would refuse of a device when it seals.
fn host(device: &HostDevice) -> Vec<Finding> {
    let name = device.address.to_string();
    let mut findings = Vec::new();
    let mut block = |problem: &str| {
        findings.push(Finding::blocker(
            &name,
            problem,
            "end the guest before the update, or use --binary",
        ));
    };
    match device.iommu {
        IommuKind::Intel => {}
        IommuKind::Amd => block("AMD-Vi cannot keep its tables across a kexec yet"),
        IommuKind::Other => block("its IOMMU is not known to keep its tables across a kexec"),
    }
    if device.is_virtual {
        block("a virtual function (SR-IOV) cannot be kept: the next kernel would remove it");
    }
    if device.group_size > 1 {
        block("it shares its IOMMU group with other devices");
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Kept = Kept {
        iommufd: true,
        vfio_pci: true,
    };

    fn device() -> HostDevice {
        HostDevice {
            address: "0000:01:00.0".parse().unwrap(),
            cdev: "/dev/vfio/devices/vfio0".into(),
            iommu: IommuKind::Intel,
            is_virtual: false,
            group_size: 1,
        }
    }

    #[test]
    fn a_device_in_good_order_is_no_obstacle() {
        assert_eq!(host(&device()), []);
        assert_eq!(kernel(KEPT), []);
        let nothing = Kept {
            iommufd: false,
            vfio_pci: false,
        };
        assert_eq!(findings(&[], nothing), [], "without a device it matters");
    }

    #[test]
    fn each_obstacle_is_named() {
        let bad = HostDevice {
            iommu: IommuKind::Amd,
            is_virtual: true,
            group_size: 2,
            ..device()
        };
        let found = host(&bad);
        for word in ["AMD-Vi", "virtual function", "IOMMU group"] {
            let named = found.iter().find(|finding| finding.problem.contains(word));
            let named = named.unwrap_or_else(|| panic!("{word} is not in {found:?}"));
            assert!(named.is_blocker());
            assert_eq!(named.subject, "0000:01:00.0");
        }
    }

    #[test]
    fn a_kernel_without_the_patches_is_named() {
        let old = Kept {
            vfio_pci: false,
            ..KEPT
        };
        let found = kernel(old);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].to_string().contains("kmod/patches"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn a_device_that_is_not_there_blocks() {
        let found = findings(&["ffff:ff:1f.7".parse().unwrap()], KEPT);
        assert!(found[0].is_blocker());
        assert!(found[0].to_string().contains("There is no PCI device"));
    }
}
