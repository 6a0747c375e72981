//! Options for the lifeboat.

use std::path::PathBuf;

use clap::Args;
use vmm_fdbox::BoxName;

use super::ops::RUN_DIR;
use super::{ForceCpuArgs, SandboxArgs};

/// Options of `live-update` with a lifeboat.
#[derive(Clone, Debug, Args)]
pub(crate) struct LifeboatArgs {
    /// Let the guests continue in a lifeboat, a second kernel on these CPUs, while the host kexecs. It gets the CPUs as
    /// guests arrive. Default: the last CPU.
    #[arg(long, value_name = "CPU,...", num_args = 0..=1, require_equals = true, value_delimiter = ',',
          requires_all = ["kernel", "boat_kernel", "boat_initramfs"])]
    pub(crate) lifeboat: Option<Vec<u32>>,
    /// The lifeboat's kernel.
    #[arg(long, value_name = "IMAGE", requires = "lifeboat")]
    pub(crate) boat_kernel: Option<PathBuf>,
    /// The lifeboat's initramfs, whose init loads the modules and runs `vmm-example boat`.
    #[arg(long, value_name = "FILE", requires = "lifeboat")]
    pub(crate) boat_initramfs: Option<PathBuf>,
    /// Words for the lifeboat's command line, for example for its console.
    #[arg(long, value_name = "STRING", default_value = "", requires = "lifeboat")]
    pub(crate) boat_cmdline: String,
    /// The lifeboat's memory, a power of two.
    #[arg(long, value_name = "MIB", default_value_t = 128, requires = "lifeboat")]
    pub(crate) boat_memory: u32,
    /// How long the lifeboat may take to start, and to have a VMM ready for a guest.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "lifeboat",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) boat_timeout: u64,
    /// A kernel in which the lifeboat starts this host again if the next kernel panics or hangs while it boots.
    #[arg(long, value_name = "IMAGE", requires = "lifeboat")]
    pub(crate) rescue_kernel: Option<PathBuf>,
    /// Its initramfs. It and the kernel have to fit into the lifeboat's memory.
    #[arg(long, value_name = "FILE", requires = "rescue_kernel")]
    pub(crate) rescue_initramfs: Option<PathBuf>,
    /// Its command line. Default: the next kernel's.
    #[arg(long, value_name = "STRING", requires = "rescue_kernel")]
    pub(crate) rescue_cmdline: Option<String>,
    /// How long the host may be silent: longer than the next kernel takes to load fdbox-boat.ko.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "rescue_kernel",
          value_parser = clap::value_parser!(u64).range(10..=86400))]
    pub(crate) rescue_after: u64,
}

/// Run the host's guests in a lifeboat. For the init of a lifeboat's kernel.
///
/// Waits until the host shows a guest's box, starts a VMM for it, takes the guest when the host offers it, and gives
/// it back when the host asks for it. Never ends by itself.
#[derive(Clone, Debug, Args)]
pub(crate) struct BoatArgs {
    /// The boxes of the guests. Default: those that the kernel's command line names (lifeboat.boxes=).
    #[arg(value_name = "BOX", value_parser = super::parse_box_name)]
    pub(crate) boxes: Vec<BoxName>,
    /// The directory for the guests' API sockets and consoles.
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    pub(crate) run_dir: PathBuf,
    /// Restart the host, in the rescue kernel that it has prepared, when it has panicked or was silent for so long while
    /// guests are here. Default: what the kernel's command line says (lifeboat.restart=), or else never.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(10..=86400))]
    pub(crate) restart_host: Option<u64>,
    #[command(flatten)]
    pub(crate) force: ForceCpuArgs,
    #[command(flatten)]
    pub(crate) privileges: SandboxArgs,
}
