//! What a guest has negotiated with its devices, so that another binary can check beforehand
//! whether its own devices support it.

use serde::{Deserialize, Serialize};
use vmm_fdbox::Finding;
use vmm_fdbox::frame::Description;

use super::block;
use super::kind::Kind;
use super::mmio::TRANSPORT_FEATURES;
use super::{console, net, rng, state, vsock};

/// The guest's requirements on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Needs {
    /// The negotiated features, by their numbers in the virtio specification.
    pub(super) features: Vec<u32>,
    /// The size of each ring.
    pub(super) rings: Vec<u16>,
    /// Whether it is a read-only disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) readonly: bool,
}

/// The numbers of some features.
pub(super) fn numbers(features: u64) -> Vec<u32> {
    (0..u64::BITS)
        .filter(|bit| features & (1 << bit) != 0)
        .collect()
}

/// The features and ring sizes that a device of this program offers.
pub(super) fn offered(kind: Kind, readonly: bool) -> (u64, &'static [u16]) {
    let (features, rings): (u64, &[u16]) = match kind {
        Kind::Block => (block::features(readonly), block::RINGS),
        Kind::Net => (net::FEATURES, net::RINGS),
        Kind::Console => (0, console::RINGS),
        Kind::Rng => (0, rng::RINGS),
        Kind::Vsock => (0, vsock::RINGS),
    };
    (features | TRANSPORT_FEATURES, rings)
}

/// The requirements of a described state that no device of this program meets. Older programs may
/// not describe any.
pub(crate) fn unmet(described: &Description) -> Vec<Finding> {
    let mut findings = Vec::new();
    for section in &described.sections {
        let Some(kind) = state::kind_of(&section.name) else {
            continue;
        };
        let needs = match serde_json::from_value(section.needs.clone()) {
            Ok(Some(needs)) => needs,
            Ok(None) => continue,
            Err(error) => {
                let problem = format!("what its guest needs cannot be parsed: {error}");
                findings.push(refusal(&section.name, problem));
                continue;
            }
        };
        findings.extend(problems(kind, &needs).map(|what| refusal(&section.name, what)));
    }
    findings
}

fn problems(kind: Kind, needs: &Needs) -> impl Iterator<Item = String> {
    let (features, rings) = offered(kind, needs.readonly);
    let has = |feature: u32| features.checked_shr(feature).unwrap_or(0) & 1 != 0;
    let lost = needs.features.iter().filter(|feature| !has(**feature));
    let mut problems: Vec<String> = lost
        .map(|feature| {
            format!("its guest uses feature {feature}, which this binary does not offer")
        })
        .collect();
    if needs.rings != rings {
        problems.push(format!(
            "its guest has rings of {:?} entries, this binary has {rings:?}",
            needs.rings
        ));
    }
    problems.into_iter()
}

fn refusal(section: &str, problem: String) -> Finding {
    Finding::blocker(
        format!("Device '{section}'"),
        problem,
        "use a binary whose device is the same or can do more",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use vmm_fdbox::frame::Need;

    fn found(section: &str, needs: serde_json::Value) -> Vec<String> {
        let described = Description::new("vmm-example 9", [(section, 1, Need::Required)]);
        let findings = unmet(&described.with_needs(section, needs));
        let text = |finding: Finding| format!("{}: {}", finding.subject, finding.problem);
        findings.into_iter().map(text).collect()
    }

    #[test]
    fn features_and_rings_that_are_not_here_are_named() {
        let good = json!({"features": [9, 28, 29, 32], "rings": [256]});
        assert_eq!(found("virtio-blk0", good), [""; 0]);
        let more = json!({"features": [9, 12, 32, 77], "rings": [256, 256]});
        assert_eq!(
            found("virtio-blk3", more),
            [
                "Device 'virtio-blk3': its guest uses feature 12, which this binary does not offer",
                "Device 'virtio-blk3': its guest uses feature 77, which this binary does not offer",
                "Device 'virtio-blk3': its guest has rings of [256, 256] entries, this binary has [256]",
            ]
        );
        // Only writable disks support discards.
        let discards = |readonly| json!({"features": [13], "rings": [256], "readonly": readonly});
        assert_eq!(found("virtio-blk0", discards(false)).len(), 0);
        assert_eq!(found("virtio-blk0", discards(true)).len(), 1);
    }

    #[test]
    fn what_was_not_said_or_makes_no_sense() {
        assert_eq!(found("virtio-rng0", json!(null)), [""; 0]);
        assert_eq!(found("serial", json!({"features": [99]})), [""; 0]);
        let odd = found("virtio-net0", json!({"features": "all"}));
        assert!(odd[0].contains("cannot be parsed"), "{odd:?}");
    }
}
