//! What a VMM tells the one that takes over its guest in the same kernel, besides what is in the
//! box.
//!
//! Unknown fields are ignored, so that old and new versions can be mixed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::devices::console::TerminalModes;
use crate::devices::vfio::spec::PciAddress;
use crate::devices::virtio::SlotLayout;
use crate::guest::boot::BootStateV1;
use crate::guest::state::MachineStateV1;
use crate::service::api::ApiPaths;

/// Sent while the guest runs, together with the descriptors named in
/// [`Endpoints`](crate::service::endpoints::Endpoints).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandoverInfo {
    pub(crate) machine: MachineStateV1,
    pub(crate) vcpus: usize,
    /// The slots of its virtio devices; devices that are not listed are found in the state.
    #[serde(default, rename = "places", skip_serializing_if = "Vec::is_empty")]
    pub(crate) layouts: Vec<SlotLayout>,
    /// The destination of the serial port, in the format of `--console`.
    pub(crate) console: String,
    /// The path of the API socket, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_socket: Option<PathBuf>,
    /// The path of the status socket, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status_socket: Option<PathBuf>,
    /// Its devices' sockets in the file system, and the prefix of those that a device connects to:
    /// the new VMM enters its sandbox before it has the state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sockets: Vec<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connects: Option<PathBuf>,
    /// Addresses of its passed-through devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) host_devices: Vec<PciAddress>,
    /// What the guest boots from when it resets, if this VMM could not open it: the new VMM enters its sandbox before it
    /// has the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<BootStateV1>,
    /// The terminal's original modes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) terminal: Option<TerminalModes>,
}

impl HandoverInfo {
    pub(crate) fn api_paths(&self) -> ApiPaths {
        ApiPaths::new(self.api_socket.as_deref(), self.status_socket.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1, as sent since the first release.
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
