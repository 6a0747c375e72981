//! The options for how a VMM and its guest end, and for who may send which requests.

use std::path::PathBuf;

use clap::Args;

use crate::service::power::SHUTDOWN_LIMIT;

/// How a guest ends, and who may end it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "End of the guest, and access to the API")]
pub(crate) struct LifeArgs {
    /// End when the guest resets, instead of booting it again.
    #[arg(long)]
    pub(crate) no_reboot: bool,
    /// How long the guest has to switch itself off after SIGTERM or SIGINT before its power is cut.
    #[arg(long, value_name = "SECONDS", default_value_t = SHUTDOWN_LIMIT.as_secs())]
    pub(crate) shutdown_timeout: u64,
    /// A second Unix socket, read-only for everybody, root included: status, metrics and events.
    #[arg(long, value_name = "PATH")]
    pub(crate) status_socket: Option<PathBuf>,
    /// Let a group connect, but read-only: to the status socket or, without one, to the API socket.
    ///
    /// Everything else is for root and the user that the VMM was started as.
    #[arg(long, value_name = "GID")]
    pub(crate) api_group: Option<u32>,
}
