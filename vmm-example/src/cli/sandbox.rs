//! The options of what a VMM gives up.

use std::path::PathBuf;

use clap::Args;

use super::RunArgs;
use crate::devices::virtio::spec::HvcSpec;
use crate::sandbox::{Level, Sandbox, User};
use crate::spec::ConsoleSpec;

/// What the VMM gives up when all it needs is open.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Privileges")]
pub(crate) struct SandboxArgs {
    /// Become this user, for good, when all files are open. It takes root.
    #[arg(long, value_name = "UID[:GID]")]
    pub(crate) user: Option<User>,
    /// Give up capabilities, all other files, and system calls that a VMM does not make.
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub(crate) sandbox: Level,
}

/// What VFIO's devices and their host are looked up in before an update.
const HOST_OF_DEVICES: [&str; 4] = [
    "/sys",
    "/boot",
    "/proc/cmdline",
    "/proc/sys/kernel/osrelease",
];

impl RunArgs {
    pub(crate) fn sandbox(&self) -> Sandbox {
        let console = match &self.console {
            ConsoleSpec::Socket(path) => Some(path),
            _ => None,
        };
        let hvc = self.devices.hvc.as_ref().and_then(HvcSpec::socket);
        let vsock = self.devices.vsock.as_ref().map(|vsock| &vsock.socket);
        let sockets = [Some(&self.api_socket), console, hvc, vsock];
        let has_host_devices = !self.passthrough.devices.is_empty();
        let paths = HOST_OF_DEVICES.map(PathBuf::from);
        let reads = paths.into_iter().filter(|_| has_host_devices);
        Sandbox {
            level: self.privileges.sandbox,
            user: self.privileges.user,
            sockets: sockets.into_iter().flatten().cloned().collect(),
            reads: reads.collect(),
            connects: vsock.cloned(),
            locked_bytes: match has_host_devices {
                true => self.memory.bytes(),
                false => 0,
            },
        }
    }
}
