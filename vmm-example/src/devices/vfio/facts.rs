//! Facts about the devices of this host that guests can drive, and whether they would cross a kexec.

use vmm_fdbox::facts::{Fact, HostRoot, Need, ScalableMode};

use super::findings;
use super::host::HostDevice;
use super::spec::PciAddress;

const UNITS: &str = "sys/class/iommu";
const DEVICES: &str = "sys/bus/pci/devices";
const BOUND: &str = "sys/bus/pci/drivers/vfio-pci";
const IOMMUFD: &str = "dev/iommu";

pub(crate) fn facts(root: &HostRoot) -> Vec<Fact> {
    let mut facts = vec![iommu(root), iommufd(root), driver(root)];
    let bound = root.names(BOUND);
    let addresses = bound.iter().filter_map(|name| name.parse().ok());
    facts.extend(addresses.map(|address| device(root, address)));
    facts
}

/// The IOMMU and its mode.
fn iommu(root: &HostRoot) -> Fact {
    const NAME: &str = "device.iommu";
    let missing = |found: &str, remedy: &str| Fact::missing(NAME, Need::Device, found, remedy);
    let units = root.names(UNITS);
    if !units.iter().any(|unit| unit.starts_with("dmar")) {
        return match units.first() {
            Some(unit) if unit.starts_with("ivhd") => Fact::ok(NAME, Need::Device, "AMD-Vi"),
            Some(_) => missing(
                "an IOMMU that is not known to keep its tables across a kexec",
                "devices go over with --binary; end their guests before a kexec",
            ),
            None => missing(
                "no IOMMU is on",
                "switch it on in the firmware, and boot with intel_iommu=on or amd_iommu=on",
            ),
        };
    }
    match ScalableMode::look(root) {
        Ok(ScalableMode::Off) => Fact::ok(NAME, Need::Device, "VT-d, in legacy mode"),
        Ok(ScalableMode::On) => Fact::ok(NAME, Need::Device, "VT-d, in scalable mode"),
        Ok(ScalableMode::Unknown) => Fact::ok(
            NAME,
            Need::Device,
            "VT-d, in legacy or in scalable mode, which cannot be seen",
        ),
        Err(error) => Fact::unknown(
            NAME,
            Need::Device,
            format!("VT-d, whose mode cannot be read: {error}"),
            "mount sysfs",
        ),
    }
}

fn iommufd(root: &HostRoot) -> Fact {
    const NAME: &str = "device.iommufd";
    match root.has(IOMMUFD) {
        true => Fact::ok(NAME, Need::Device, "there is /dev/iommu"),
        false => Fact::missing(
            NAME,
            Need::Device,
            "no /dev/iommu",
            "modprobe iommufd, of a kernel with CONFIG_IOMMUFD",
        ),
    }
}

fn driver(root: &HostRoot) -> Fact {
    const NAME: &str = "device.driver";
    let bound = root.names(BOUND);
    let count = bound
        .iter()
        .filter(|name| name.parse::<PciAddress>().is_ok())
        .count();
    match (root.has(BOUND), count) {
        (true, 0) => Fact::ok(
            NAME,
            Need::Device,
            "vfio-pci is there, and no device is bound to it",
        ),
        (true, count) => Fact::ok(NAME, Need::Device, format!("vfio-pci has devices: {count}")),
        (false, _) => Fact::missing(
            NAME,
            Need::Device,
            "no driver vfio-pci",
            "modprobe vfio-pci, of a kernel with CONFIG_VFIO_PCI and CONFIG_VFIO_DEVICE_CDEV",
        ),
    }
}

/// A device bound to vfio-pci, judged by the checks of an update.
fn device(root: &HostRoot, address: PciAddress) -> Fact {
    let name = format!("device.{address}");
    let device = match HostDevice::find_in(&root.join(DEVICES), address) {
        Ok(device) => device,
        Err(error) => {
            let found = crate::error::chain(&error);
            return Fact::missing(name, Need::Device, found, "fix this, then check again");
        }
    };
    let findings = findings::host(&device);
    let worst = findings.iter().find(|finding| finding.is_blocker());
    match worst.or(findings.first()) {
        Some(finding) => Fact::of_finding(name, Need::Device, finding),
        None => Fact::ok(
            name,
            Need::Device,
            "a guest can drive it, through a kexec as well",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use vmm_fdbox::facts::FactState;

    use super::super::services::{ATS_AND_PASID, config_with};
    use super::*;

    const ADDRESS: &str = "0000:01:00.0";

    fn set(root: &Path, path: &str, content: impl AsRef<[u8]>) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A host with VT-d and one device, on which nothing prevents an update.
    fn host() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        set(root, "sys/class/iommu/dmar0/intel-iommu/ecap", "f00f5a\n");
        set(root, IOMMUFD, "");
        let device = root.join(DEVICES).join(ADDRESS);
        fs::create_dir_all(device.join("vfio-dev/vfio0")).unwrap();
        fs::create_dir_all(device.join("iommu_group/devices").join(ADDRESS)).unwrap();
        fs::create_dir_all(root.join(BOUND).join(ADDRESS)).unwrap();
        fs::create_dir_all(root.join(BOUND).join("module")).unwrap();
        symlink("../../drivers/vfio-pci", device.join("driver")).unwrap();
        symlink(root.join("sys/class/iommu/dmar0"), device.join("iommu")).unwrap();
        fs::write(device.join("config"), config_with(&[])).unwrap();
        dir
    }

    fn of(dir: &tempfile::TempDir) -> Vec<Fact> {
        facts(&HostRoot::new(dir.path()))
    }

    #[track_caller]
    fn assert_missing(facts: &[Fact], name: &str, found: &str) {
        let fact = facts.iter().find(|fact| fact.name == name).unwrap();
        assert_eq!(fact.state, FactState::Missing, "{fact:?}");
        assert!(fact.found.contains(found), "{fact:?}");
    }

    #[test]
    fn a_host_in_good_order_has_all_of_it() {
        let dir = host();
        let facts = of(&dir);
        let names: Vec<_> = facts.iter().map(|fact| fact.name.as_str()).collect();
        let expected = [
            "device.iommu",
            "device.iommufd",
            "device.driver",
            "device.0000:01:00.0",
        ];
        assert_eq!(names, expected);
        assert!(
            facts.iter().all(|fact| fact.state == FactState::Ok),
            "{facts:?}"
        );
    }

    #[test]
    fn a_host_without_an_iommu_has_none_of_it() {
        let facts = of(&tempfile::tempdir().unwrap());
        assert_missing(&facts, "device.iommu", "no IOMMU");
        assert_missing(&facts, "device.iommufd", "no /dev/iommu");
        assert_missing(&facts, "device.driver", "no driver");
    }

    #[test]
    fn what_an_update_would_refuse_is_told_of_the_host() {
        let dir = host();
        let device = dir.path().join(DEVICES).join(ADDRESS);
        fs::write(device.join("config"), config_with(&ATS_AND_PASID)).unwrap();
        assert_missing(&of(&dir), "device.0000:01:00.0", "(ATS)");
        set(dir.path(), "proc/cmdline", "intel_iommu=sm_on");
        set(
            dir.path(),
            "sys/class/iommu/dmar0/intel-iommu/ecap",
            "80000000000",
        );
        let facts = of(&dir);
        let iommu = facts
            .iter()
            .find(|fact| fact.name == "device.iommu")
            .unwrap();
        assert_eq!(iommu.state, FactState::Ok);
        assert!(iommu.found.contains("in scalable mode"), "{iommu:?}");
        fs::remove_dir_all(dir.path().join("sys/class/iommu/dmar0")).unwrap();
        fs::create_dir_all(dir.path().join("sys/class/iommu/ivhd0")).unwrap();
        let facts = of(&dir);
        assert_eq!(
            (facts[0].state, facts[0].found.as_str()),
            (FactState::Ok, "AMD-Vi")
        );
        fs::rename(
            dir.path().join("sys/class/iommu/ivhd0"),
            dir.path().join("sys/class/iommu/smmu3.0"),
        )
        .unwrap();
        assert_missing(&of(&dir), "device.iommu", "not known to keep");
    }
}
