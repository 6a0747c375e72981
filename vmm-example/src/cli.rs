//! The command line: parsing only.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use vmm_fdbox::BoxName;
use vmm_fdbox::update::Step;

use crate::devices::virtio::spec::FdSpec;
use crate::guest::state::SHOWN_VERSION;
use crate::sandbox::Level;
use crate::spec::{ConsoleSpec, MAX_CPUS, MemorySpec};

mod ask;
mod config;
mod cpu;
mod devices;
#[cfg(test)]
mod dist;
mod home;
mod life;
mod lifeboat;
mod member;
mod ops;
mod sandbox;

pub(crate) use ask::{ApiArgs, CheckStateArgs, DoctorArgs, ShutdownArgs, StatusArgs};
pub(crate) use config::expand;
pub(crate) use cpu::{CpuidArgs, ForceCpuArgs};
pub(crate) use devices::{DeviceArgs, PassthroughArgs};
pub(crate) use home::{HomeArg, HomeArgs, KeeperArgs};
pub(crate) use life::LifeArgs;
pub(crate) use lifeboat::{BoatArgs, LifeboatArgs};
pub(crate) use member::MemberArgs;
pub(crate) use ops::{
    BenchArgs, CompletionsArgs, DiscardArgs, FleetArgs, ManArgs, NotReadyArg, ResumeAllArgs,
};
pub(crate) use sandbox::SandboxArgs;

const EXAMPLES: &str = "\
What this host has, and what to do about what is missing:

  vmm-example doctor

A guest's life, with an update of its host:

  vmm-example run --kernel /boot/vmlinuz --initramfs guest.cpio \\
      --memory size=512M --cpus 2 --api-socket /run/vm0.sock --name vm0
  vmm-example live-update --api-socket /run/vm0.sock \\
      --kernel /boot/vmlinuz-new --initramfs /boot/initrd-new \\
      --cmdline \"$(cat /proc/cmdline)\"

The host boots the new kernel. There, as early as possible:

  modprobe fdbox
  vmm-example resume --box vm0 --api-socket /run/vm0.sock

Every guest of a host, in one update:

  vmm-example live-update --all --kernel /boot/vmlinuz-new
  vmm-example resume --all

Another build of the VMM, under the same kernel:

  vmm-example live-update --api-socket /run/vm0.sock --binary /usr/bin/vmm-example-new

Exit status:
  0   done
  1   wrong usage, or an error unrelated to an update
  10  failed, and nothing changed
  11  failed or cancelled, and rolled back: the guest continues
  12  failed, and the guest is lost
  13  failed, and the guest waits in its box: resume it";

const RUN_EXAMPLES: &str = "\
Examples:
  vmm-example run --kernel /boot/vmlinuz --initramfs guest.cpio --api-socket /run/vm0.sock
  vmm-example run --kernel /boot/vmlinuz --initramfs guest.cpio --api-socket /run/vm0.sock \\
      --cpus 4 --memory size=2G,kind=memfd --console socket=/run/vm0.console --name vm0 --json

A guest that drives a network card of the host, which is bound to vfio-pci:
  vmm-example run --kernel /boot/vmlinuz --initramfs guest.cpio --api-socket /run/vm0.sock \\
      --memory size=2G,kind=memfd --device vfio=0000:01:00.0";

const LIVE_UPDATE_EXAMPLES: &str = "\
Examples, the first one only a check:
  vmm-example live-update --api-socket /run/vm0.sock --kernel /boot/vmlinuz-new \\
      --initramfs /boot/initrd-new --dry-run
  vmm-example live-update --api-socket /run/vm0.sock --kernel /boot/vmlinuz-new \\
      --initramfs /boot/initrd-new
  vmm-example live-update --api-socket /run/vm0.sock --binary /usr/bin/vmm-example-new
  vmm-example live-update --api-socket /run/vm0.sock --no-kexec && \\
      vmm-example resume --box vm0 --api-socket /run/vm0.sock

A kexec ends this command together with the host. Its exit status is that of an update that did not
get that far: 10 nothing changed, 11 rolled back, 12 guest lost, 13 guest waits in its box.";

const RESUME_EXAMPLES: &str = "\
Examples:
  vmm-example status
  vmm-example resume --box vm0 --api-socket /run/vm0.sock --report /run/vm0.json

Exit status 10: the guest was not resumed and its box is unchanged; fix what the message says and
try again.";

/// A small VMM whose guests survive a kexec of their host.
///
/// A guest's memory, VM and state go into a box of the FDBox kernel module, which keeps them while
/// the host boots another kernel. The guest does not reboot: it is paused for the blackout and
/// continues.
#[derive(Debug, Parser)]
#[command(version = SHOWN_VERSION, after_help = EXAMPLES, help_expected = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    LiveUpdate(LiveUpdateArgs),
    Resume(ResumeArgs),
    #[command(hide = true)]
    Member(MemberArgs),
    Boat(BoatArgs),
    Keeper(KeeperArgs),
    CheckState(CheckStateArgs),
    Status(StatusArgs),
    Doctor(DoctorArgs),
    Discard(DiscardArgs),
    /// Give up an update that has not left the host yet; the guest continues.
    Cancel(ApiArgs),
    /// Stop a guest's vCPUs.
    Pause(ApiArgs),
    /// Let a paused guest run.
    Continue(ApiArgs),
    Shutdown(ShutdownArgs),
    /// Print a guest's events as they happen, as JSON, one object per line.
    Events(ApiArgs),
    /// Print a guest's metrics in Prometheus format.
    Metrics(ApiArgs),
    Bench(BenchArgs),
    /// Restore a terminal if the VMM that uses it cannot.
    #[command(name = crate::devices::console::guard::COMMAND, hide = true)]
    GuardTerminal {
        /// The terminal's modes before.
        #[arg(value_name = "JSON")]
        modes: String,
    },
    /// Print shell completions.
    Completions(CompletionsArgs),
    /// Write the man pages into a directory.
    Man(ManArgs),
}

/// Boot a guest and run it until it shuts down.
///
/// Stays in the foreground as the guest's VMM and exits with 0 when the guest ends. A guest that
/// resets boots again, in the same process. The guest is a Linux kernel with its initramfs; it has
/// CPUs, memory, a serial port and virtio devices, and PCI devices of the host.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// A TOML file with these options; options on the command line override it.
    ///
    /// Its keys are the names of the options: `cpus = 2`, `disk = ["path=/var/lib/vm0.img"]`, `json = true`.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The guest's kernel: an x86-64 bzImage, such as /boot/vmlinuz-*.
    #[arg(long, value_name = "BZIMAGE")]
    pub(crate) kernel: PathBuf,
    /// The guest's initramfs.
    #[arg(long, value_name = "FILE")]
    pub(crate) initramfs: Option<PathBuf>,
    /// The guest kernel's command line. Default: `console=ttyS0 pci=off`, without `pci=off` for
    /// a guest with --device.
    #[arg(long, value_name = "STRING")]
    pub(crate) cmdline: Option<String>,
    /// Number of virtual CPUs.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CPUS)))]
    pub(crate) cpus: u8,
    #[command(flatten)]
    pub(crate) cpuid: CpuidArgs,
    /// Memory: its size, and its kind: KVM's own (guest_memfd), shmem (memfd), or huge pages from the
    /// host's pool (hugetlb; page=2M or page=1G).
    #[arg(long, value_name = "size=SIZE,kind=KIND,page=SIZE", default_value_t = MemorySpec::default())]
    pub(crate) memory: MemorySpec,
    /// Where the serial port goes: stdio, file=PATH or socket=PATH.
    ///
    /// A socket serves one client at a time and keeps the last 64 KiB while nobody is connected.
    /// The VMM does not interpret stdin: end a guest with `vmm-example shutdown`.
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    pub(crate) console: ConsoleSpec,
    /// The Unix socket to listen on for the other commands.
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: PathBuf,
    /// The guest's name, also used for its box.
    #[arg(long, value_name = "NAME", default_value = "guest", value_parser = parse_box_name)]
    pub(crate) name: BoxName,
    /// Print JSON, one object per line: when the API socket is ready (`listening`), and how the
    /// guest ended (`ended`, with the reason as its `message`). The console must go elsewhere.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    #[command(flatten)]
    pub(crate) passthrough: PassthroughArgs,
    #[command(flatten)]
    pub(crate) privileges: SandboxArgs,
    #[command(flatten)]
    pub(crate) life: LifeArgs,
}

impl RunArgs {
    /// Standard output cannot be used for both.
    pub(crate) fn check_output(&self) -> Result<(), &'static str> {
        match self.console {
            ConsoleSpec::Stdio if self.json => {
                Err("--json needs standard output: give --console file=PATH or socket=PATH")
            }
            _ => Ok(()),
        }
    }
}

/// Update the host under a running guest.
///
/// Checks for anything that could fail, loads the kernel, puts the guest's memory and VM into a box
/// and seals it, all while the guest runs. Then stops the guest, writes its state and jumps. Any
/// failure before the jump is undone and the guest continues.
///
/// With --all, or with several --api-socket, updates many guests: all are prepared while they run,
/// all are paused at once, and one kexec takes all of them to the next kernel.
#[derive(Clone, Debug, Args)]
#[command(after_help = LIVE_UPDATE_EXAMPLES)]
pub(crate) struct LiveUpdateArgs {
    /// The API socket of the guest's VMM. If given several times, the guests are updated together.
    #[arg(long, value_name = "PATH", required_unless_present = "all")]
    pub(crate) api_socket: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// The host's next kernel.
    #[arg(long, value_name = "IMAGE", required_unless_present_any = ["no_kexec", "binary"])]
    pub(crate) kernel: Option<PathBuf>,
    /// The host's next initramfs.
    #[arg(long, value_name = "FILE")]
    pub(crate) initramfs: Option<PathBuf>,
    /// The next kernel's command line; it needs kho=on. Default: this kernel's.
    #[arg(long, value_name = "STRING")]
    pub(crate) cmdline: Option<String>,
    /// Assume that the next kernel has the patches even though its image does not declare them.
    ///
    /// For a kernel that was built before images did. Does not apply to devices of the host.
    #[arg(long, requires = "kernel")]
    pub(crate) assume_patches: bool,
    /// Hand the guest over to another VMM in this kernel, instead of a kexec.
    #[arg(long, conflicts_with_all = ["kernel", "initramfs", "cmdline"])]
    pub(crate) no_kexec: bool,
    #[command(flatten)]
    pub(crate) lifeboat: LifeboatArgs,
    /// Hand the guest over to another build of this VMM, in this kernel.
    ///
    /// The new binary is first asked whether it reads the guest's state, and gets ready while the
    /// guest runs. API socket and console are handed over with the guest.
    #[arg(long, value_name = "PATH",
          conflicts_with_all = ["kernel", "initramfs", "cmdline", "no_kexec", "all"])]
    pub(crate) binary: Option<PathBuf>,
    /// How long the new binary may take for each answer before the update is rolled back.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "binary",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// What the new binary's VMM drops. Default: as much as the old one did (on or off).
    #[arg(long, value_name = "HOW", value_enum, requires = "binary")]
    pub(crate) sandbox: Option<Level>,
    /// Write the report of an update with --binary to a file, as JSON.
    #[arg(long, value_name = "FILE", requires = "binary")]
    pub(crate) report: Option<PathBuf>,
    /// The box to use. Default: the guest's name.
    #[arg(long = "box", value_name = "NAME", value_parser = parse_box_name,
          conflicts_with = "all")]
    pub(crate) box_name: Option<BoxName>,
    #[command(flatten)]
    pub(crate) home: HomeArgs,
    #[command(flatten)]
    pub(crate) force: ForceCpuArgs,
    /// Only check: change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print events and result as JSON, one object per line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Make a step fail, for tests.
    #[arg(long, value_name = "STEP", hide = true, value_parser = parse_step)]
    pub(crate) fail_at: Option<Step>,
    /// Stop this process, as SIGSTOP does, when a step begins, for tests.
    #[arg(long, value_name = "STEP,...", hide = true, value_delimiter = ',', value_parser = parse_step)]
    pub(crate) stop_at: Vec<Step>,
    /// Cancel when a step is done, for tests.
    #[arg(long, value_name = "STEP", hide = true, value_parser = parse_step)]
    pub(crate) cancel_after: Option<Step>,
}

/// Continue a guest that an update handed over.
///
/// Takes memory, VM and state out of the box, rebuilds the guest and runs it; then reports, deletes
/// the box and stays in the foreground as the guest's VMM. If the guest cannot be rebuilt, the box
/// is sealed again with everything in it, and the resume can be retried.
#[derive(Debug, Args)]
#[command(after_help = RESUME_EXAMPLES)]
pub(crate) struct ResumeArgs {
    /// The guest's box.
    #[arg(long = "box", value_name = "NAME", value_parser = parse_box_name,
          required_unless_present = "all")]
    pub(crate) box_name: Option<BoxName>,
    #[command(flatten)]
    pub(crate) home: HomeArgs,
    #[command(flatten)]
    pub(crate) all: ResumeAllArgs,
    /// The Unix socket to listen on for the other commands.
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: Option<PathBuf>,
    /// Where the serial port goes: stdio, file=PATH or socket=PATH.
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    pub(crate) console: ConsoleSpec,
    /// A tap to replace one that was passed by descriptor before the update; may be repeated, in
    /// the original order. All other devices are reopened automatically.
    #[arg(long = "net", value_name = "fd=N", conflicts_with = "all")]
    pub(crate) nets: Vec<FdSpec>,
    /// The Unix socket for status, metrics and events only, as with `run`.
    #[arg(long, value_name = "PATH", conflicts_with = "all")]
    pub(crate) status_socket: Option<PathBuf>,
    /// Let a group connect, but read-only, as with `run`.
    #[arg(long, value_name = "GID")]
    pub(crate) api_group: Option<u32>,
    /// Make guests arrive paused: `continue` runs them.
    #[arg(long)]
    pub(crate) paused: bool,
    #[command(flatten)]
    pub(crate) force: ForceCpuArgs,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the report to a file, as JSON. A directory gets a file NAME.json for the guest
    /// and, with --all, total.json for all of them.
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) report: Option<PathBuf>,
    /// The value of /proc/uptime at the start of this host's userspace, to separate userspace from
    /// the kernel's boot in the report.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) init_uptime: Option<f64>,
    /// Make a step fail, for tests.
    #[arg(long, value_name = "STEP", hide = true, value_parser = parse_step)]
    pub(crate) fail_at: Option<Step>,
    #[command(flatten)]
    pub(crate) privileges: SandboxArgs,
}

fn parse_box_name(name: &str) -> Result<BoxName, String> {
    BoxName::new(name).map_err(|error| error.to_string())
}

fn parse_step(name: &str) -> Result<Step, String> {
    let names: Vec<_> = Step::ALL.iter().map(|step| step.name()).collect();
    name.parse()
        .map_err(|error| format!("{error}: use one of {}", names.join(", ")))
}

#[cfg(test)]
mod tests;
