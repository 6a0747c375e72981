//! The options of how a VMM and its guest end, and of who may ask for what.

use clap::Args;

use crate::service::power::SHUTDOWN_LIMIT;

/// What happens at a guest's end, and who may bring it about.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "The guest's end, and who may ask for what")]
pub(crate) struct LifeArgs {
    /// End when the guest resets, in place of booting it again.
    #[arg(long)]
    pub(crate) no_reboot: bool,
    /// After SIGTERM or SIGINT the guest has so long to switch itself off, until its power is cut.
    #[arg(long, value_name = "SECONDS", default_value_t = SHUTDOWN_LIMIT.as_secs())]
    pub(crate) shutdown_timeout: u64,
    /// Let a group connect to the API socket too, but only to look: status, metrics and events.
    ///
    /// Everything else is for root and the user that the VMM was started as.
    #[arg(long, value_name = "GID")]
    pub(crate) api_group: Option<u32>,
}
