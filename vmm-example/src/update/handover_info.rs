//! What a VMM tells the one that takes its guest over in the same kernel, beside what is in the box.
//!
//! Fields that are not known are passed over, so that old and new may differ in age.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::devices::console::TerminalModes;
use crate::devices::vfio::spec::PciAddress;
use crate::devices::virtio::SlotLayout;
use crate::guest::state::MachineStateV1;

/// Told while the guest runs. With it come the descriptors that [`Endpoints`](crate::service::endpoints::Endpoints)
/// names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandoverInfo {
    pub(crate) machine: MachineStateV1,
    pub(crate) vcpus: usize,
    /// Where its virtio devices are; what is not told is found in the state.
    #[serde(default, rename = "places", skip_serializing_if = "Vec::is_empty")]
    pub(crate) layouts: Vec<SlotLayout>,
    /// Where the serial port goes, as `--console` says it.
    pub(crate) console: String,
    /// Where the API socket is, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_socket: Option<PathBuf>,
    /// The sockets of its devices in the file system, and the one whose name begins those that a device connects
    /// to: before the state is there, a VMM gives up what it does not need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sockets: Vec<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connects: Option<PathBuf>,
    /// Addresses of the host's devices that it drives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) host_devices: Vec<PciAddress>,
    /// How the terminal was before a VMM had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) terminal: Option<TerminalModes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 tells, from the first release on.
    const GOLDEN_V1: &str = include_str!("handover-info-v1.json");

    #[test]
    fn what_version_1_tells_is_understood() {
        let golden: serde_json::Value = serde_json::from_str(GOLDEN_V1).unwrap();
        let info: HandoverInfo = serde_json::from_value(golden.clone()).unwrap();
        assert_eq!(serde_json::to_value(&info).unwrap(), golden);
        let mut newer = golden;
        newer["mood"] = "fine".into();
        assert_eq!(serde_json::from_value::<HandoverInfo>(newer).unwrap(), info);
    }
}
