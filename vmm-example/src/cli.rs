//! The command line, parsed; nothing is done here.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use vmm_fdbox::BoxName;
use vmm_fdbox::update::Step;

use crate::spec::{ConsoleSpec, MAX_CPUS, MemorySpec};
use crate::virtio::spec::{DeviceSpecs, DiskSpec, FdSpec, HvcSpec, NetSpec, VsockSpec};

const EXAMPLES: &str = "\
A guest's life, with an update of its host:

  vmm-example run --kernel /boot/vmlinuz --initramfs guest.cpio \\
      --memory size=512M --cpus 2 --api-socket /run/vm0.sock --name vm0
  vmm-example live-update --api-socket /run/vm0.sock \\
      --kernel /boot/vmlinuz-new --initramfs /boot/initrd-new \\
      --cmdline \"$(cat /proc/cmdline)\"

The host boots the new kernel. There, as early as possible:

  modprobe fdbox
  vmm-example resume --box vm0 --api-socket /run/vm0.sock

Exit status:
  0   done
  1   wrong usage, or an error that has nothing to do with an update
  10  it failed and nothing changed
  11  it failed or was cancelled, and was rolled back: the guest runs on
  12  it failed and the guest is lost";

/// A small VMM whose guests survive a kexec of their host.
///
/// A guest's memory, VM and state go into a box of the FDBox kernel module, which keeps
/// them while the host boots another kernel. The guest does not reboot: it stands still
/// for the blackout and runs on.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, help_expected = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boot a guest and run it until it shuts down or resets.
    Run(RunArgs),
    /// Update the host under a running guest.
    LiveUpdate(LiveUpdateArgs),
    /// Run a guest on that an update handed over.
    Resume(ResumeArgs),
    /// Show a guest, or the boxes of this host.
    Status(StatusArgs),
    /// Give up an update that has not left the host yet; the guest runs on.
    Cancel(ApiArgs),
    /// Stop a guest's CPUs.
    Pause(ApiArgs),
    /// Let a paused guest run.
    Continue(ApiArgs),
    /// End a guest, as if its power was cut.
    Shutdown(ApiArgs),
}

/// Boot a guest and run it until it shuts down or resets.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The guest's kernel: an x86-64 bzImage, such as /boot/vmlinuz-*.
    #[arg(long, value_name = "BZIMAGE")]
    pub(crate) kernel: PathBuf,
    /// The guest's initramfs.
    #[arg(long, value_name = "FILE")]
    pub(crate) initramfs: Option<PathBuf>,
    /// The guest kernel's command line.
    #[arg(long, value_name = "STRING", default_value = "console=ttyS0 pci=off")]
    pub(crate) cmdline: String,
    /// Number of virtual CPUs.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CPUS)))]
    pub(crate) cpus: u8,
    /// Memory: its size, and whether it is KVM's own (guest_memfd) or shmem (memfd).
    #[arg(long, value_name = "size=SIZE,kind=KIND", default_value_t = MemorySpec::default())]
    pub(crate) memory: MemorySpec,
    /// Where the serial port goes: stdio, file=PATH or socket=PATH.
    ///
    /// A socket serves one client at a time and keeps the last 64 KiB while nobody is
    /// connected. Nothing on stdin is the VMM's: end a guest with `vmm-example shutdown`.
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    pub(crate) console: ConsoleSpec,
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// The Unix socket to listen on for the other commands.
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: PathBuf,
    /// The guest's name, which its box gets too.
    #[arg(long, value_name = "NAME", default_value = "guest", value_parser = parse_box_name)]
    pub(crate) name: BoxName,
}

/// A guest's devices, eight at most.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Devices, eight at most")]
pub(crate) struct DeviceArgs {
    /// A disk in a file or on a block device; may be repeated. A resume opens the same path.
    #[arg(long = "disk", value_name = "path=FILE[,readonly=on]")]
    pub(crate) disks: Vec<DiskSpec>,
    /// A network on a tap; may be repeated. A resume attaches to the tap of the same name; one
    /// that was handed in must be handed in again.
    #[arg(long = "net", value_name = "tap=NAME|fd=N[,mac=MAC]")]
    pub(crate) nets: Vec<NetSpec>,
    /// Sockets between guest and host. An update resets their connections.
    ///
    /// A program that connects to PATH and writes `CONNECT PORT` gets the guest's port. A guest
    /// that connects to CID 2 gets the Unix socket PATH_PORT.
    #[arg(long, value_name = "cid=N,socket=PATH")]
    pub(crate) vsock: Option<VsockSpec>,
    /// A second console, hvc0 in the guest.
    #[arg(long, value_name = "file=PATH|socket=PATH")]
    pub(crate) hvc: Option<HvcSpec>,
    /// No source of random numbers.
    #[arg(long)]
    pub(crate) no_rng: bool,
}

impl DeviceArgs {
    pub(crate) fn specs(&self) -> DeviceSpecs {
        DeviceSpecs {
            disks: self.disks.clone(),
            nets: self.nets.clone(),
            console: self.hvc.clone(),
            rng: !self.no_rng,
            vsock: self.vsock.clone(),
        }
    }
}

/// Update the host under a running guest.
///
/// Checks for whatever could fail, loads the kernel, moves the guest's memory and VM into
/// a box and seals it, all while the guest runs. Then stops the guest, writes its state
/// and jumps. Any failure before the jump is undone and the guest runs on.
#[derive(Debug, Args)]
pub(crate) struct LiveUpdateArgs {
    /// The API socket of the guest's VMM.
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: PathBuf,
    /// The host's next kernel.
    #[arg(long, value_name = "IMAGE", required_unless_present = "no_kexec")]
    pub(crate) kernel: Option<PathBuf>,
    /// The host's next initramfs.
    #[arg(long, value_name = "FILE")]
    pub(crate) initramfs: Option<PathBuf>,
    /// The next kernel's command line; it needs kho=on. Default: this kernel's.
    #[arg(long, value_name = "STRING")]
    pub(crate) cmdline: Option<String>,
    /// Hand the guest over to another VMM in this kernel, instead of a kexec.
    #[arg(long, conflicts_with_all = ["kernel", "initramfs", "cmdline"])]
    pub(crate) no_kexec: bool,
    /// The box to use. Default: the guest's name.
    #[arg(long = "box", value_name = "NAME", value_parser = parse_box_name)]
    pub(crate) box_name: Option<BoxName>,
    /// Only check: change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print events and result as JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Make a step fail, for tests.
    #[arg(long, value_name = "STEP", hide = true, value_parser = parse_step)]
    pub(crate) fail_at: Option<Step>,
    /// Cancel when a step is done, for tests.
    #[arg(long, value_name = "STEP", hide = true, value_parser = parse_step)]
    pub(crate) cancel_after: Option<Step>,
}

/// Run a guest on that an update handed over.
///
/// Takes memory, VM and state out of the box, rebuilds the guest and runs it; then
/// reports, deletes the box and stays in the foreground as the guest's VMM. If the guest
/// cannot be rebuilt, everything goes back into the box, for another try.
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The guest's box.
    #[arg(long = "box", value_name = "NAME", value_parser = parse_box_name)]
    pub(crate) box_name: BoxName,
    /// The Unix socket to listen on for the other commands.
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: Option<PathBuf>,
    /// Where the serial port goes: stdio, file=PATH or socket=PATH.
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    pub(crate) console: ConsoleSpec,
    /// A tap in place of one that was handed in before the update; may be repeated, in the
    /// order of those. All other devices are opened as they were.
    #[arg(long = "net", value_name = "fd=N")]
    pub(crate) nets: Vec<FdSpec>,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the report to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// What /proc/uptime said when this host's userspace started, to tell it from the
    /// kernel's boot in the report.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) init_uptime: Option<f64>,
    /// Make a step fail, for tests.
    #[arg(long, value_name = "STEP", hide = true, value_parser = parse_step)]
    pub(crate) fail_at: Option<Step>,
}

impl ResumeArgs {
    /// The descriptors of taps that were handed in.
    pub(crate) fn handed_in(&self) -> Vec<RawFd> {
        self.nets.iter().map(|net| net.0).collect()
    }
}

/// Show a guest, or the boxes of this host.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The API socket of a guest's VMM. Without: show the boxes and what is in them.
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: Option<PathBuf>,
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

fn parse_box_name(name: &str) -> Result<BoxName, String> {
    BoxName::new(name).map_err(|error| error.to_string())
}

fn parse_step(name: &str) -> Result<Step, String> {
    let names: Vec<_> = Step::ALL.iter().map(|step| step.name()).collect();
    name.parse()
        .map_err(|error| format!("{error}: use one of {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::MemoryKind;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_consistent_and_every_option_has_help() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_has_defaults() {
        let Ok(Command::Run(args)) = parse("vmm run --kernel k --api-socket s") else {
            panic!("not parsed");
        };
        assert_eq!((args.cpus, args.memory.mib), (1, 256));
        assert_eq!(args.memory.kind, MemoryKind::GuestMemfd);
        assert_eq!(args.console, ConsoleSpec::Stdio);
        assert_eq!(args.cmdline, "console=ttyS0 pci=off");
    }

    #[test]
    fn bad_values_are_refused() {
        for line in [
            "vmm",
            "vmm run --kernel k",
            "vmm run --kernel k --api-socket s --cpus 0",
            "vmm run --kernel k --api-socket s --cpus 255",
            "vmm run --kernel k --api-socket s --memory size=7",
            "vmm run --kernel k --api-socket s --console tty",
            "vmm run --kernel k --api-socket s --name fdbox",
            "vmm resume --box a/b",
            "vmm live-update --api-socket s",
            "vmm live-update --api-socket s --kernel k --no-kexec",
            "vmm live-update --api-socket s --kernel k --fail-at nowhere",
        ] {
            assert!(parse(line).is_err(), "{line} was accepted");
        }
    }

    #[test]
    fn an_update_takes_a_kernel_or_none() {
        let line = "vmm live-update --api-socket s --kernel k --dry-run --fail-at seal";
        let Ok(Command::LiveUpdate(args)) = parse(line) else {
            panic!("not parsed")
        };
        assert!(args.dry_run);
        assert_eq!(args.fail_at, Some(Step::Seal));
        assert!(parse("vmm live-update --api-socket s --no-kexec").is_ok());
    }
}
