//! The options for how a VMM and its guest end, and for who may send which requests.

use clap::Args;

use crate::service::power::SHUTDOWN_LIMIT;

/// How a guest ends, and who may end it.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "End of the guest, and access to the API")]
pub(crate) struct LifeArgs {
    /// End when the guest resets, instead of booting it again.
    #[arg(long)]
    pub(crate) no_reboot: bool,
    /// How long the guest has to switch itself off after SIGTERM or SIGINT before its power is cut.
    #[arg(long, value_name = "SECONDS", default_value_t = SHUTDOWN_LIMIT.as_secs())]
    pub(crate) shutdown_timeout: u64,
    /// Let a group connect to the API socket too, but read-only: status, metrics and events.
    ///
    /// Everything else is for root and the user that the VMM was started as.
    #[arg(long, value_name = "GID")]
    pub(crate) api_group: Option<u32>,
}
