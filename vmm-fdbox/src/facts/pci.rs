//! How the PCI devices of a host are configured.

use std::fs::File;
use std::io::{BufRead, BufReader};

use super::HostRoot;

/// The ACPI table that tells where configuration space is in memory.
const MCFG: &str = "sys/firmware/acpi/tables/MCFG";

/// The functions of this kernel, one in each line: address, type, name.
const SYMBOLS: &str = "proc/kallsyms";
/// One of `keep-bars.c`, from kmod/patches, which has no other trace before a device is kept.
const KEEPS_BARS: &str = "pci_bars_keep";

/// Whether the configuration space of a host's devices is in memory. By ports, an address and a value,
/// two kernels could not use it at the same time: they have no lock in common.
pub(crate) fn has_config_in_memory(root: &HostRoot) -> bool {
    root.has(MCFG)
}

/// Whether this kernel hands over the sizes of BARs of devices that it keeps. `None`: it does not tell.
pub(crate) fn hands_over_bars(root: &HostRoot) -> Option<bool> {
    let symbols = BufReader::new(File::open(root.join(SYMBOLS)).ok()?);
    let mut names = symbols
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.split_ascii_whitespace().nth(2).map(str::to_owned))
        .peekable();
    names.peek()?;
    Some(names.any(|name| name == KEEPS_BARS))
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeRoot;
    use super::*;

    #[test]
    fn a_kernel_that_hands_over_bars_is_known_by_a_function() {
        let host = FakeRoot::new();
        assert_eq!(hands_over_bars(&host.root()), None);
        host.set(SYMBOLS, "");
        assert_eq!(hands_over_bars(&host.root()), None);
        let others = "0000000000000000 T pci_keep\n0000000000000000 t pci_bars_keep_x\t[other]\n";
        host.set(SYMBOLS, others);
        assert_eq!(hands_over_bars(&host.root()), Some(false));
        host.set(
            SYMBOLS,
            [others, "0000000000000000 T pci_bars_keep\n"].concat(),
        );
        assert_eq!(hands_over_bars(&host.root()), Some(true));
    }
}
