//! What can be typed after `cargo lab`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::kernel::Flavour;
use crate::suite::Part;

/// A host that can be updated under its guests, on any machine: it runs in QEMU, with a kernel and
/// a module built here.
///
/// Everything missing is installed or built once, into $FDBOX_LAB_CACHE (default:
/// ~/.cache/fdbox-lab). The first run builds three kernels and takes about half an hour on two
/// cores; later ones start at once.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", help_expected = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Updates a host under a running guest, and shows what both saw.
    ///
    /// Boots a host, boots a Linux guest in it, updates the host under it by a kexec into another
    /// kernel, and has the guest check every byte of its memory and its clocks. The guest works with
    /// its disk all the while, and the lab talks to it over TCP from outside. Exit status 0 when
    /// all of it holds.
    Demo(DemoArgs),
    /// Boots a host with your files added, runs a command, kexecs, runs another.
    ///
    /// The module is loaded in both kernels. The exit status is that of the first command that
    /// fails, or 70 when the host itself goes wrong.
    ///
    /// Example: cargo lab host --file ./client:/bin/client --before '/bin/client before'
    /// --after '/bin/client after'
    Host(HostArgs),
    /// Opens a shell in the host; its end powers the host off.
    Shell(ShellArgs),
    /// Runs what CI runs: formatting, lints, unit tests, module build, scenarios.
    ///
    /// Of the scenarios it runs some always, and of the others the part whose turn it is: successive
    /// commits take all parts in turn. What is run and what is left is said first. With a filter all that
    /// match run.
    Test(TestArgs),
    /// Measures how long a guest stands still, beside what others take for the same.
    ///
    /// Each figure has its baseline in the same run on the same host: on another machine the
    /// figures are others, their ratios are not. Without a filter it takes an hour or two.
    Bench(BenchArgs),
    /// Builds everything that is missing and runs nothing.
    Build(BuildArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Only this kernel, those that it is built from, and the module for it. May be repeated.
    #[arg(long, value_enum)]
    pub kernel: Vec<Flavour>,
}

#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    /// Memory of the host, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    pub memory: u64,
    /// CPUs of the host.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// Add a file to the host: path here, colon, path there. May be repeated. A program must be
    /// linked statically.
    #[arg(long = "file", value_name = "SRC:DST", value_parser = parse_file)]
    pub files: Vec<(PathBuf, String)>,
    /// Add to the host's kernel command line.
    #[arg(long, value_name = "S", default_value = "", allow_hyphen_values = true)]
    pub cmdline_extra: String,
    /// Leave the module out.
    #[arg(long)]
    pub no_module: bool,
    /// Add what a guest needs, for a VMM of your own: its kernel and initramfs at /guest/kernel and /guest/initramfs
    /// in the first kernel, and in every kernel a drive, /dev/vda, a network card, eth0, and vmm-example.
    #[arg(long)]
    pub guest: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Memory of the guest, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(128..=16384))]
    pub memory: u64,
    /// CPUs of the guest.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=8))]
    pub cpus: u64,
    /// Number of guests, all of them taken along by one kexec. With more than one each has
    /// 128 MiB and one CPU, and one of them memory of the other kind.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=8),
          conflicts_with_all = ["memory", "cpus", "ram"])]
    pub guests: u64,
    /// Replace the VMM under the guest by another process of its, and leave the host as it is.
    #[arg(long, conflicts_with = "guests")]
    pub binary: bool,
    /// Let the guest drive a device of the host's as well: a card, at which numbered frames arrive from
    /// outside all the time, or a drive, to which it has many writes in flight. Its memory is then a memfd.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["guests", "binary", "ram"])]
    pub device: Option<DeviceKind>,
    /// What the guest's memory is.
    #[arg(long, value_enum, default_value_t = Ram::GuestMemfd)]
    pub ram: Ram,
    /// Show the consoles of host and guest as well.
    #[arg(long, short)]
    pub verbose: bool,
    /// Write what was seen to a file, for machines.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A device that QEMU emulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceKind {
    /// An Intel 82574 network card.
    E1000e,
    /// An NVMe drive.
    Nvme,
}

/// A kind of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ram {
    /// KVM's own.
    #[value(name = "guest_memfd")]
    GuestMemfd,
    /// Shared memory of the kernel's.
    #[value(name = "memfd")]
    Memfd,
}

impl Ram {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GuestMemfd => "guest_memfd",
            Self::Memfd => "memfd",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Run this by /bin/sh in the first kernel. May be repeated.
    #[arg(long, value_name = "CMD")]
    pub before: Vec<String>,
    /// Run this by /bin/sh in the second kernel. May be repeated.
    #[arg(long, value_name = "CMD")]
    pub after: Vec<String>,
    /// Stay in the first kernel: run both there.
    #[arg(long)]
    pub no_kexec: bool,
    /// Give up when one kernel's commands take longer.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Write what happened to a file, for machines.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Run only tests with one of these in their names, and all of these.
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Run every test there is.
    #[arg(long)]
    pub(crate) all: bool,
    /// Run this of N parts of the scenarios, beside those that run always.
    #[arg(long, value_name = "K/N", conflicts_with_all = ["all", "filters"])]
    pub(crate) part: Option<Part>,
    /// Say which hosts would run, with their tests, and run nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// Write down in the checkout how long each host took: parts are split by that.
    #[arg(long)]
    pub(crate) note_costs: bool,
    /// Show the consoles of the hosts as well; one host at a time, then, unless --lanes says more.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// How many hosts run at a time. Without it, as many as there are CPUs, at 6 GiB of available
    /// memory each, and 8 at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) lanes: Option<u8>,
    /// Write the verdicts to a file, for machines.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Measure only what has one of these in its name.
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// The smallest guests only, each figure once: to see that it works.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure guests and memfds of these sizes only, in MiB.
    #[arg(long, value_name = "MIB", value_delimiter = ',')]
    pub(crate) ram: Vec<u64>,
    /// Take each figure so often. Default: 3, and once with --quick.
    #[arg(long, value_name = "N")]
    pub(crate) repeats: Option<usize>,
    /// Count instructions instead of time, one as a nanosecond: floor, host_update and memfd only. What the
    /// emulator takes to translate code that runs for the first time is not in these figures, and
    /// they are the same on a busy machine.
    #[arg(long)]
    pub(crate) instructions: bool,
    /// Compare this checkout's VMM with another, by turns in the same run: a file (linked statically), or a commit, which is
    /// built. Only with this is there a part `against`.
    #[arg(long, value_name = "FILE or COMMIT")]
    pub(crate) against: Option<String>,
    /// Write the figures to a file, for people: a page with pictures, complete in itself.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Write the figures to a file, for machines.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
}

fn parse_file(text: &str) -> Result<(PathBuf, String), String> {
    match text.split_once(':') {
        Some((source, place)) if !source.is_empty() && place.starts_with('/') => {
            Ok((PathBuf::from(source), place.to_owned()))
        }
        _ => Err("write it as SRC:DST with an absolute DST, as in ./client:/bin/client".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_argument_explained() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_device_needs_a_host_to_update_and_memory_that_it_can_reach() {
        let parse = |more: &[&str]| {
            let demo = ["lab", "demo", "--device", "e1000e"];
            Cli::try_parse_from(demo.iter().chain(more))
        };
        assert!(parse(&["--memory", "512"]).is_ok());
        for more in [
            ["--ram", "guest_memfd"].as_slice(),
            &["--guests", "2"],
            &["--binary"],
        ] {
            assert!(parse(more).is_err(), "{more:?}");
        }
    }

    #[test]
    fn a_filter_and_a_part_exclude_each_other() {
        let parse = |more: &[&str]| Cli::try_parse_from(["lab", "test"].iter().chain(more));
        for more in [["--part", "2/4"].as_slice(), &["--all"], &["memfd"], &[]] {
            assert!(parse(more).is_ok(), "{more:?}");
        }
        for more in [
            ["--part", "2/4", "memfd"].as_slice(),
            &["--part", "2/4", "--all"],
            &["--part", "5/4"],
        ] {
            assert!(parse(more).is_err(), "{more:?}");
        }
    }

    #[test]
    fn a_file_needs_two_paths() {
        assert_eq!(
            parse_file("a:/b").unwrap(),
            (PathBuf::from("a"), "/b".to_owned())
        );
        for wrong in ["a", "a:", ":/b", "a:b"] {
            assert!(parse_file(wrong).is_err(), "{wrong}");
        }
    }
}
