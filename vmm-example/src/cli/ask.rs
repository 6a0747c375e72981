//! Options of the commands that query a VMM, or another build of it, and change nothing.

use std::path::PathBuf;

use clap::Args;

use vmm_fdbox::BoxName;

use super::{HomeArgs, parse_box_name};
use crate::service::api::protocol::ShutdownRequest;
use crate::service::power::SHUTDOWN_LIMIT;

/// Check whether this binary can read the state that another one would write.
///
/// Prints its name, its version and its findings as JSON. Exits with 0 if it can read the state and
/// with 10 if not.
#[derive(Debug, Args)]
pub(crate) struct CheckStateArgs {
    /// A description of the state, as JSON; - reads it from standard input.
    ///
    /// {"architecture":"x86_64","format":1,"producer":"...",
    /// "sections":[{"name":"...","version":1,"required":true}]}
    #[arg(long, value_name = "JSON")]
    pub(crate) sections: String,
}

const STATUS_EXAMPLES: &str = "\
Examples:
  vmm-example status
  vmm-example status --dot | dot -Tsvg > boxes.svg
  vmm-example status --api-socket /run/vm0.sock
  vmm-example status --api-socket /run/vm0.sock --json";

/// Show a guest, or the boxes of this host with their dependencies.
#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub(crate) struct StatusArgs {
    /// The API socket of a guest's VMM. Without it, show the boxes and their contents, and the lifeboat if there is
    /// one.
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: Option<PathBuf>,
    /// Show only this box. It is an error if there is none with this name.
    #[arg(long = "box", value_name = "NAME", value_parser = parse_box_name, conflicts_with_all = ["api_socket", "lifeboat", "dot"])]
    pub(crate) box_name: Option<BoxName>,
    /// Show only the lifeboat. As JSON: null if there is none.
    #[arg(long, conflicts_with_all = ["api_socket", "dot"])]
    pub(crate) lifeboat: bool,
    #[command(flatten)]
    pub(crate) home: HomeArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the dependencies in the boxes as a graph, for Graphviz's dot.
    #[arg(long, conflicts_with_all = ["api_socket", "json"])]
    pub(crate) dot: bool,
}

const DOCTOR_AFTER: &str = "\
Exit status:
  0   guests survive a kexec of this host
  10  they do not; the output says why, and what to do
  1   wrong usage, or the answer could not be printed";

/// Report what this host has for guests and updates, and what to do about what is missing.
///
/// Looks at the kernel, the module, KVM and the devices bound to vfio-pci, and changes nothing. Use
/// `live-update --dry-run` to check a specific guest and next kernel.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_AFTER)]
pub(crate) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A command without options of its own.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// The API socket of the guest's VMM.
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: PathBuf,
}

/// End a guest: press its power button, and cut its power after a timeout.
///
/// A guest that does not listen to its power button is cut off at once. A paused guest cannot
/// react, and is cut off after the timeout.
#[derive(Debug, Args)]
pub(crate) struct ShutdownArgs {
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// How long the guest may take to switch itself off.
    #[arg(long, value_name = "SECONDS", default_value_t = SHUTDOWN_LIMIT.as_secs())]
    timeout: u64,
    /// Cut its power at once.
    #[arg(long, conflicts_with = "timeout")]
    now: bool,
}

impl ShutdownArgs {
    pub(crate) fn request(&self) -> ShutdownRequest {
        ShutdownRequest {
            timeout: Some(if self.now { 0 } else { self.timeout }),
        }
    }
}
