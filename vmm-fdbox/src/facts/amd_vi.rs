//! Whether AMD-Vi translates for the devices of a host.

use super::HostRoot;

const UNITS: &str = "sys/class/iommu";

/// Whether the kernel of a host uses units of AMD-Vi.
pub(crate) fn has_amd_vi(root: &HostRoot) -> bool {
    let units = root.names(UNITS);
    units.iter().any(|unit| unit.starts_with("ivhd"))
}
