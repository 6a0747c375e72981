//! Kernel messages that a test causes on purpose: no complaint during that test, but one during any
//! other.

/// The test, and a substring of the line.
const EXPECTED: &[(&str, &str)] = &[
    ("lifeboat/crash", "Boat kernel"),
    ("lifeboat/crashed-boats", "Boat kernel"),
    ("lifeboat/dead-host", "Host kernel"),
    ("lifeboat/lost-with-a-box", "Boat kernel"),
    ("lifeboat/restarted-host", "Host kernel"),
    ("passthrough/amd-outside", "AMD-Vi:"),
    ("passthrough/first-stage-outside", "DMAR:"),
    ("passthrough/outside-the-mappings", "DMAR:"),
    ("passthrough/scalable-outside", "DMAR:"),
    ("selftests/vfio_pci_driver", "DMAR:"),
];

/// Whether `test` is meant to cause this failure.
pub(crate) fn is(test: &str, failure: &str) -> bool {
    EXPECTED
        .iter()
        .any(|(name, line)| *name == test && failure.contains(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_test_that_asks_for_it_may_see_it() {
        let fault = "Host kernel (dmar: [dma): DMAR: [DMA Write] Request device [01:00.0]";
        assert!(is("passthrough/outside-the-mappings", fault));
        assert!(!is("passthrough/guest", fault));
        assert!(!is(
            "passthrough/outside-the-mappings",
            "Host kernel (bug:): BUG: x"
        ));
    }
}
