//! Options of the process of a guest that a coordinator moves here.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Args;
use vmm_fdbox::update::Step;

use super::{ForceCpuArgs, SandboxArgs, parse_step};
use crate::devices::virtio::spec::FdSpec;
use crate::service::api::ApiPaths;
use crate::spec::ConsoleSpec;

/// Be the VMM of a guest that the coordinator at the other end of standard input moves here.
#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    /// The Unix socket to listen on for the other commands.
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: Option<PathBuf>,
    /// The Unix socket for status, metrics and events only.
    #[arg(long, value_name = "PATH")]
    pub(crate) status_socket: Option<PathBuf>,
    /// A group that may connect, read-only.
    #[arg(long, value_name = "GID")]
    pub(crate) api_group: Option<u32>,
    /// Where the serial port goes: stdio, file=PATH or socket=PATH.
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    pub(crate) console: ConsoleSpec,
    /// A tap to replace one that was passed by descriptor before the update.
    #[arg(long = "net", value_name = "fd=N")]
    pub(crate) nets: Vec<FdSpec>,
    /// The guest's devices rest: this is a lifeboat, and what they need is in the host.
    #[arg(long)]
    pub(crate) devices_rest: bool,
    /// The descriptor that the console reads from, for a guest that belongs to whoever started its
    /// coordinator.
    #[arg(long, value_name = "N")]
    pub(crate) stdin: Option<RawFd>,
    /// Stop this process, as SIGSTOP does, when it is asked for a step, for tests. `jump`: when it
    /// has the guest.
    #[arg(long, value_name = "STEP", value_parser = parse_step)]
    pub(crate) stop_at: Option<Step>,
    #[command(flatten)]
    pub(crate) force: ForceCpuArgs,
    #[command(flatten)]
    pub(crate) privileges: SandboxArgs,
}

impl MemberArgs {
    /// The paths of its sockets.
    pub(crate) fn api_paths(&self) -> ApiPaths {
        ApiPaths::new(self.api_socket.as_deref(), self.status_socket.as_deref())
    }

    /// The descriptors of taps that were passed.
    pub(crate) fn handed_in(&self) -> Vec<RawFd> {
        self.nets.iter().map(|net| net.0).collect()
    }
}
