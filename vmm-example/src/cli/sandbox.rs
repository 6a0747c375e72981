//! The options for a VMM's sandbox.

use std::path::{PathBuf, absolute};

use clap::Args;

use super::RunArgs;
use crate::devices::virtio::spec::HvcSpec;
use crate::sandbox::{Level, Sandbox, User};
use crate::spec::ConsoleSpec;

/// What the VMM drops once everything it needs is open.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Privileges")]
pub(crate) struct SandboxArgs {
    /// Switch to this user for good once all files are open. Needs root. Names are looked up in /etc/passwd.
    #[arg(long, value_name = "UID[:GID]|NAME")]
    pub(crate) user: Option<User>,
    /// Drop capabilities, access to all other files, and system calls that a VMM does not make.
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub(crate) sandbox: Level,
}

impl Level {
    /// The option for the command line of another VMM.
    pub(crate) fn argument(self) -> String {
        let level = match self {
            Self::On => "on",
            Self::Log => "log",
            Self::Off => "off",
        };
        format!("--sandbox={level}")
    }
}

impl SandboxArgs {
    /// The same options, for the command line of another VMM.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let user = self.user.map(|user| format!("--user={user}"));
        user.into_iter().chain([self.sandbox.argument()]).collect()
    }

    pub(crate) fn sandbox(&self) -> Sandbox {
        Sandbox {
            level: self.sandbox,
            user: self.user,
            ..Sandbox::default()
        }
    }
}

/// A bare file name has no directory in it.
fn with_folder(path: &PathBuf) -> PathBuf {
    absolute(path).unwrap_or_else(|_| path.clone())
}

impl RunArgs {
    pub(crate) fn sandbox(&self) -> Sandbox {
        let console = match &self.console {
            ConsoleSpec::Socket(path) => Some(path),
            _ => None,
        };
        let hvc = self.devices.hvc.as_ref().and_then(HvcSpec::socket);
        let vsock = self.devices.vsock.as_ref().map(|vsock| &vsock.socket);
        let status = self.life.status_socket.as_ref();
        let sockets = [Some(&self.api_socket), status, console, hvc, vsock];
        Sandbox {
            sockets: sockets.into_iter().flatten().map(with_folder).collect(),
            connects: vsock.map(with_folder),
            locks_memory: !self.passthrough.devices.is_empty(),
            ..self.privileges.sandbox()
        }
    }
}
