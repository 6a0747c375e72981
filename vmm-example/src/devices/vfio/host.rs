//! Information about a device of the host from sysfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::VfioError;
use super::spec::PciAddress;

const DEVICES: &str = "/sys/bus/pci/devices";
const DRIVER: &str = "vfio-pci";

/// The kind of IOMMU that translates for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IommuKind {
    Intel,
    Amd,
    /// Neither: not known to keep its tables across a kexec.
    Other,
}

/// A device that can be passed through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostDevice {
    pub(crate) address: PciAddress,
    /// Its directory in sysfs.
    pub(crate) path: PathBuf,
    /// Its device file.
    pub(crate) cdev: PathBuf,
    pub(crate) iommu: IommuKind,
    /// Whether it is a virtual function (SR-IOV).
    pub(crate) is_virtual: bool,
    /// The number of functions in its IOMMU group, including itself.
    pub(crate) group_size: usize,
}

impl HostDevice {
    /// Looks up a device, which must be bound to vfio-pci.
    pub(crate) fn find(address: PciAddress) -> Result<Self, VfioError> {
        Self::find_in(Path::new(DEVICES), address)
    }

    /// The same in the folder that sysfs has for them.
    pub(super) fn find_in(devices: &Path, address: PciAddress) -> Result<Self, VfioError> {
        let path = devices.join(address.to_string());
        let address_text = address.to_string();
        if !path.exists() {
            return Err(VfioError::NoDevice {
                address: address_text,
            });
        }
        let look = |source| VfioError::Look {
            address: address.to_string(),
            source,
        };
        if !path.join("iommu_group").exists() {
            return Err(VfioError::NoIommu {
                address: address_text,
            });
        }
        let driver = target_name(&path.join("driver")).map_err(look)?;
        if driver.as_deref() != Some(DRIVER) {
            return Err(VfioError::OtherDriver {
                address: address_text,
                driver: driver.unwrap_or_else(|| "no driver".into()),
            });
        }
        let cdev = first_entry(&path.join("vfio-dev")).map_err(look)?;
        let cdev = cdev.ok_or(VfioError::NoCdev {
            address: address_text,
        })?;
        let group = path.join("iommu_group/devices");
        Ok(Self {
            address,
            path: path.clone(),
            cdev: Path::new("/dev/vfio/devices").join(cdev),
            iommu: iommu_kind(target_name(&path.join("iommu")).map_err(look)?.as_deref()),
            is_virtual: path.join("physfn").exists(),
            group_size: fs::read_dir(group).map_err(look)?.count(),
        })
    }
}

/// The last component of a link's target; `None` if there is no link.
fn target_name(link: &Path) -> io::Result<Option<String>> {
    match fs::read_link(link) {
        Ok(target) => Ok(target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn first_entry(directory: &Path) -> io::Result<Option<std::ffi::OsString>> {
    match fs::read_dir(directory) {
        Ok(mut entries) => entries
            .next()
            .transpose()
            .map(|entry| entry.map(|entry| entry.file_name())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The drivers number their units: `dmar0`, `ivhd0`.
fn iommu_kind(unit: Option<&str>) -> IommuKind {
    match unit {
        Some(unit) if unit.starts_with("dmar") => IommuKind::Intel,
        Some(unit) if unit.starts_with("ivhd") => IommuKind::Amd,
        _ => IommuKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ADDRESS: &str = "0000:01:00.0";

    /// A sysfs with one device that has no problems.
    fn sysfs() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join(ADDRESS);
        fs::create_dir_all(device.join("vfio-dev/vfio3")).unwrap();
        fs::create_dir_all(device.join("iommu_group/devices").join(ADDRESS)).unwrap();
        symlink("../../drivers/vfio-pci", device.join("driver")).unwrap();
        symlink("../../virtual/iommu/dmar1", device.join("iommu")).unwrap();
        (root, device)
    }

    fn find(root: &tempfile::TempDir) -> Result<HostDevice, VfioError> {
        HostDevice::find_in(root.path(), ADDRESS.parse().unwrap())
    }

    #[test]
    fn a_device_in_good_order_is_found() {
        let (root, _) = sysfs();
        let found = find(&root).unwrap();
        assert_eq!(found.cdev, Path::new("/dev/vfio/devices/vfio3"));
        assert_eq!((found.iommu, found.is_virtual), (IommuKind::Intel, false));
        assert_eq!(found.group_size, 1);
    }

    #[test]
    fn what_is_missing_is_named() {
        let (root, device) = sysfs();
        fs::remove_file(device.join("driver")).unwrap();
        let error = find(&root).unwrap_err();
        assert!(error.to_string().contains("no driver"), "{error}");
        symlink("../../drivers/e1000e", device.join("driver")).unwrap();
        let error = find(&root).unwrap_err();
        assert!(error.to_string().contains("bound to e1000e"), "{error}");
        fs::remove_dir_all(device.join("iommu_group")).unwrap();
        assert!(matches!(find(&root), Err(VfioError::NoIommu { .. })));
        fs::remove_dir_all(&device).unwrap();
        assert!(matches!(find(&root), Err(VfioError::NoDevice { .. })));
    }

    #[test]
    fn a_kernel_without_device_files_is_named() {
        let (root, device) = sysfs();
        fs::remove_dir_all(device.join("vfio-dev")).unwrap();
        assert!(matches!(find(&root), Err(VfioError::NoCdev { .. })));
    }

    #[test]
    fn virtual_functions_and_amd_are_told_apart() {
        let (root, device) = sysfs();
        fs::remove_file(device.join("iommu")).unwrap();
        symlink("../../virtual/iommu/ivhd0", device.join("iommu")).unwrap();
        fs::create_dir(device.join("physfn")).unwrap();
        let found = find(&root).unwrap();
        assert_eq!((found.iommu, found.is_virtual), (IommuKind::Amd, true));
    }
}
