//! The kinds of devices.

use std::fmt;

/// What a device is. The numbers are those of the virtio specification, chapter 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub(crate) enum Kind {
    Net = 1,
    Block = 2,
    Console = 3,
    Rng = 4,
    Vsock = 19,
}

impl Kind {
    /// The device ID that the guest sees.
    pub(crate) fn id(self) -> u32 {
        self as u32
    }
}

/// As in the names of devices: `blk0`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Net => "net",
            Self::Block => "blk",
            Self::Console => "console",
            Self::Rng => "rng",
            Self::Vsock => "vsock",
        })
    }
}
