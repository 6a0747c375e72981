//! Options of commands that concern several guests, and of commands for operators.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use clap_complete::Shell;
use vmm_fdbox::BoxName;
use vmm_fdbox::update::NotReady;

use super::{CpuidArgs, HomeArgs};

/// The default directory for the API sockets of a host's guests.
pub(crate) const RUN_DIR: &str = "/run/vmm-example";

/// Options of `live-update` for many guests.
#[derive(Clone, Debug, Args)]
pub(crate) struct FleetArgs {
    /// Update all guests whose VMMs listen on *.sock in the run directory.
    #[arg(long, conflicts_with = "api_socket")]
    pub(crate) all: bool,
    /// The directory of the API sockets.
    #[arg(long, value_name = "DIR", default_value = RUN_DIR, conflicts_with = "api_socket")]
    pub(crate) run_dir: PathBuf,
    /// What to do if one of several guests is not ready: update no guest (abort, the default), or
    /// leave that guest behind. It is then stopped before the others are, with everything it wrote
    /// synced, and the jump ends it.
    #[arg(long, value_name = "WHAT", value_enum)]
    pub(crate) not_ready: Option<NotReadyArg>,
    /// How long a guest may take to bring its devices to rest and pause before it counts as not
    /// ready. It is then rolled back, alone or with the others that are paused.
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) pause_timeout: u64,
    /// How long checking a guest, and sealing it while it runs, may take before it counts as not
    /// ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 900,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) prepare_timeout: u64,
    /// The order in which the guests are resumed, by name. The others follow, in parallel.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) order: Vec<String>,
    /// The guest to which --fail-at applies, for tests.
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) fail_guest: Option<String>,
}

/// Give up a box that nobody will resume: free its memory, and lose the guest.
///
/// The box of a guest that was resumed no longer exists. A box that is left belongs to a guest that
/// could not be resumed, or to a program that did not delete it. Without --yes a box that is not
/// empty is left alone, and its contents are shown.
#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    /// The box, as `status` shows it.
    #[arg(long = "box", value_name = "NAME", value_parser = super::parse_box_name)]
    pub(crate) box_name: BoxName,
    #[command(flatten)]
    pub(crate) home: HomeArgs,
    /// Really lose its contents.
    #[arg(long)]
    pub(crate) yes: bool,
}

const BENCH_EXAMPLES: &str = "\
Examples:
  vmm-example bench --kernel /boot/vmlinuz --initramfs guest.cpio
  vmm-example bench --json /var/log/updates/*.json";

/// Measure what updates cost guests on this host.
///
/// With --kernel it boots guests, upgrades this VMM to itself under each of them and reports the
/// blackouts. For updates of the host it summarises the reports written by `resume --report`.
#[derive(Debug, Args)]
#[command(after_help = BENCH_EXAMPLES, arg_required_else_help = true)]
pub(crate) struct BenchArgs {
    /// Reports of resumes on this host.
    #[arg(value_name = "REPORT")]
    pub(crate) reports: Vec<PathBuf>,
    /// The kernel of the guests under which the VMM is upgraded.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Their initramfs. The guests must keep running by themselves.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initramfs: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cpuid: CpuidArgs,
    /// Their sizes.
    #[arg(long, value_name = "MIB,...", value_delimiter = ',', default_value = "128,512,1024",
          value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    pub(crate) ram: Vec<u64>,
    /// Number of upgrades under each guest.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) repeats: u64,
    /// How long a guest may boot before the first upgrade.
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) settle: u64,
    /// Print JSON, in the format of `cargo lab bench`.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What happens when a guest is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NotReadyArg {
    Abort,
    Leave,
}

impl From<NotReadyArg> for NotReady {
    fn from(arg: NotReadyArg) -> Self {
        match arg {
            NotReadyArg::Abort => Self::Abort,
            NotReadyArg::Leave => Self::Leave,
        }
    }
}

/// Options of `resume` for many guests.
#[derive(Clone, Debug, Args)]
pub(crate) struct ResumeAllArgs {
    /// Resume every guest that waits in a box, each in its own process, and exit when all of them
    /// run. The exit status is that of the guest that fared worst.
    #[arg(long, conflicts_with_all = ["box_name", "api_socket", "console"])]
    pub(crate) all: bool,
    /// The directory for API sockets (NAME.sock), consoles (NAME.console) and status sockets (NAME.status) with --all.
    #[arg(long, value_name = "DIR", default_value = RUN_DIR, conflicts_with = "box_name")]
    pub(crate) run_dir: PathBuf,
    /// With --all: give each guest a read-only status socket (NAME.status).
    #[arg(long, requires = "all")]
    pub(crate) status_sockets: bool,
    /// How long a guest's VMM may take to read the state, and again to rebuild the guest. A VMM
    /// that takes longer is killed; the others do not wait for it.
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// The guest whose VMM is stopped, as by SIGSTOP, when it has read the state, for tests.
    #[arg(long, value_name = "NAME", hide = true, requires = "all")]
    pub(crate) stop_guest: Option<String>,
    /// With --all in an initramfs with systemd: mark the VMMs so that systemd does not kill them
    /// when it leaves the initramfs.
    #[arg(long, requires = "all")]
    pub(crate) from_initramfs: bool,
}

/// Print shell completions.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Write the man pages into a directory.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The directory; it is created if necessary.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}
