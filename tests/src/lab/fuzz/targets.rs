//! The targets of `cargo lab fuzz`.

use anyhow::{Context, Result};

/// The tests that contain a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tests {
    /// The library's.
    Library,
    /// The VMM's.
    Vmm,
    /// The lab's, for the module.
    Lab,
}

impl Tests {
    /// cargo's arguments for building them.
    pub(super) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Library => ["--package", "vmm-fdbox", "--lib", "--quiet"],
            Self::Vmm => ["--package", "vmm-example", "--bin", "vmm-example"],
            Self::Lab => ["--package", "fdbox-lab", "--lib", "--quiet"],
        }
    }
}

/// A target: its name, its tests, the module that it is in, and what it reads.
pub(super) type Target = (&'static str, Tests, &'static str, &'static str);

pub(super) const TARGETS: [Target; 22] = [
    (
        "frame",
        Tests::Library,
        "frame::tests",
        "the frame of a VM's state",
    ),
    (
        "timeline",
        Tests::Library,
        "timeline::tests",
        "the timeline that crosses a kexec",
    ),
    (
        "member",
        Tests::Library,
        "member::wire::tests",
        "the messages between coordinator and VMMs",
    ),
    (
        "keeper",
        Tests::Library,
        "keeper::wire::tests",
        "the packets between keeper and VMMs",
    ),
    (
        "directory",
        Tests::Library,
        "keeper::directory::tests",
        "what a keeper leaves for the next one",
    ),
    (
        "bzimage",
        Tests::Library,
        "kexec::image::tests",
        "the check of a kernel image",
    ),
    (
        "state",
        Tests::Vmm,
        "guest::state::tests",
        "each section of a guest's state",
    ),
    (
        "virtio-state",
        Tests::Vmm,
        "devices::virtio::tests",
        "a virtio device's state, and the device with it",
    ),
    (
        "pci-state",
        Tests::Vmm,
        "devices::vfio::function::tests::fuzz",
        "a PCI device's state, and the device with it",
    ),
    (
        "api",
        Tests::Vmm,
        "service::api::protocol::tests",
        "the VMM's API",
    ),
    ("specs", Tests::Vmm, "cli::tests", "the values of options"),
    (
        "config",
        Tests::Vmm,
        "cli::config::tests",
        "the configuration file",
    ),
    (
        "virtio-block",
        Tests::Vmm,
        "devices::virtio::block::tests::fuzz",
        "a guest that drives a disk, and the host's answers",
    ),
    (
        "virtio-net",
        Tests::Vmm,
        "devices::virtio::net::tests",
        "the same for a network card",
    ),
    (
        "virtio-console",
        Tests::Vmm,
        "devices::virtio::console::tests",
        "the same for a console",
    ),
    (
        "virtio-vsock",
        Tests::Vmm,
        "devices::virtio::vsock::tests",
        "the same for sockets",
    ),
    (
        "virtio-rng",
        Tests::Vmm,
        "devices::virtio::tests",
        "the same for an entropy source",
    ),
    (
        "pci",
        Tests::Vmm,
        "devices::vfio::function::tests::fuzz",
        "a guest's use of configuration space, BARs and MSI-X",
    ),
    (
        "handover",
        Tests::Lab,
        "module_abi::fuzz",
        "a handover as the module reads it",
    ),
    (
        "handover-body",
        Tests::Lab,
        "module_abi::fuzz",
        "the same with the checksums that it should have",
    ),
    (
        "handover-fd",
        Tests::Lab,
        "module_abi::fuzz",
        "what each kind of file leaves for the next kernel",
    ),
    (
        "broken-memory",
        Tests::Lab,
        "module_abi::fuzz",
        "the list of broken pages",
    ),
];

/// The targets of these names; without names, all.
pub(super) fn chosen(names: &[String]) -> Result<Vec<Target>> {
    if names.is_empty() {
        return Ok(TARGETS.to_vec());
    }
    let target = |name: &String| {
        let found = TARGETS.into_iter().find(|(of, ..)| of == name);
        found.with_context(|| format!("There is no target {name}: see --list"))
    };
    names.iter().map(target).collect()
}

/// The full name of a target's test.
pub(super) fn test_of(module: &str, name: &str) -> String {
    format!("{module}::fuzz_{}", name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The functions of the sources whose names say that they are targets.
    fn in_sources() -> BTreeSet<String> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = BTreeSet::new();
        for dir in ["vmm-fdbox/src", "vmm-example/src", "tests/src"] {
            for path in crate::files::sources(&checkout.join(dir)).unwrap() {
                let Ok(text) = std::fs::read_to_string(&path) else {
                    continue;
                };
                let names = text
                    .lines()
                    .filter_map(|line| line.trim().strip_prefix("fn fuzz_"));
                found.extend(names.filter_map(|name| Some(name.split_once("()")?.0.to_owned())));
            }
        }
        found
    }

    #[test]
    fn every_target_is_listed_once() {
        let listed: Vec<String> = TARGETS
            .iter()
            .map(|(name, ..)| name.replace('-', "_"))
            .collect();
        let as_set: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(as_set.len(), listed.len());
        assert_eq!(as_set, in_sources());
        assert_eq!(test_of("cli::tests", "a-b"), "cli::tests::fuzz_a_b");
    }

    #[test]
    fn an_unknown_target_is_refused() {
        assert_eq!(chosen(&[]).unwrap().len(), TARGETS.len());
        assert!(chosen(&["pci".to_owned()]).is_ok());
        assert!(chosen(&["pcj".to_owned()]).is_err());
    }
}
