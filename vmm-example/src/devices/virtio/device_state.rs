//! The state specific to each kind of device that crosses an update.
//!
//! A field that readers may ignore is added with a default; any other change is a new version.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::kind::Kind;

/// The state specific to a kind of device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeviceStateV1 {
    Block(BlockStateV1),
    Net(NetStateV1),
    Console(ConsoleDeviceStateV1),
    Rng(RngStateV1),
    Vsock(VsockStateV1),
}

impl DeviceStateV1 {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Block(_) => Kind::Block,
            Self::Net(_) => Kind::Net,
            Self::Console(_) => Kind::Console,
            Self::Rng(_) => Kind::Rng,
            Self::Vsock(_) => Kind::Vsock,
        }
    }
}

/// A disk, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockStateV1 {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) readonly: bool,
    /// As reported to the guest.
    pub(crate) sectors: u64,
    pub(crate) id: String,
    /// Bypasses the host's page cache.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) direct: bool,
    #[serde(default, skip_serializing_if = "IoMode::is_auto")]
    pub(crate) io: IoMode,
}

/// What carries out the requests of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum IoMode {
    /// io_uring, or a thread if the host has no io_uring.
    #[default]
    Auto,
    Uring,
    Thread,
}

impl IoMode {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// The origin of a tap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TapSource {
    /// The host's interface with that name.
    Name(String),
    /// A descriptor that was open when the VMM started.
    Descriptor,
}

/// A network device, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetStateV1 {
    pub(crate) tap: TapSource,
    pub(crate) mac: [u8; 6],
    /// The MAC address of the tap itself.
    #[serde(default)]
    pub(crate) tap_mac: Option<[u8; 6]>,
    /// A frame, with its header, that waits for a buffer of the guest.
    #[serde(with = "serde_bytes", default)]
    pub(crate) waiting: Vec<u8>,
}

/// The destination of a console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ConsoleTarget {
    /// Appended to a file; no input.
    File(PathBuf),
    /// A Unix socket that serves one client at a time.
    Socket(PathBuf),
}

/// The console device, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConsoleDeviceStateV1 {
    /// With an absolute path.
    pub(crate) target: ConsoleTarget,
}

/// The socket device, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VsockStateV1 {
    pub(crate) cid: u64,
    /// Absolute.
    pub(crate) socket: PathBuf,
    /// Whether the guest still has to be told that its connections are gone.
    #[serde(default)]
    pub(crate) reset_due: bool,
}

/// The entropy device, version 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RngStateV1 {}
