//! How the PCI devices of a host are configured.

use super::HostRoot;

/// The ACPI table that tells where configuration space is in memory.
const MCFG: &str = "sys/firmware/acpi/tables/MCFG";

/// Whether the configuration space of a host's devices is in memory. By ports, an address and a value,
/// two kernels could not use it at the same time: they have no lock in common.
pub(crate) fn has_config_in_memory(root: &HostRoot) -> bool {
    root.has(MCFG)
}
