//! The command line of `cargo lab`.

mod demo;
mod random;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::demo::{DemoArgs, DeviceKind, Home, IommuKind, Ram};
pub(crate) use self::random::{FuzzArgs, IoctlsArgs, SoakArgs};

use crate::kernel::Flavour;
use crate::suite::Part;

/// A host that can be updated under its guests, on any machine: it runs in QEMU, with a kernel and
/// a module built here.
///
/// Whatever is missing is installed or built once, into $FDBOX_LAB_CACHE (default:
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
    /// Boots a host and a Linux guest in it, updates the host under the guest by a kexec into
    /// another kernel, and has the guest check its clocks and every byte of its memory. Meanwhile
    /// the guest keeps using its disk, and the lab talks to it over TCP from outside. The exit
    /// status is 0 if all checks pass.
    Demo(DemoArgs),
    /// Boots a host with your files added, runs a command, kexecs, runs another.
    ///
    /// The module is loaded in both kernels. The exit status is that of the first command that
    /// fails, or 70 if the host itself fails.
    ///
    /// Example: cargo lab host --file ./client:/bin/client --before '/bin/client before' --after
    /// '/bin/client after'
    Host(HostArgs),
    /// Opens a shell in the host; exiting it powers the host off.
    Shell(ShellArgs),
    /// Runs what CI runs: formatting, lints, unit tests, module build, scenarios.
    ///
    /// Some of the scenarios run always; of the others only one part runs, and successive commits
    /// take all parts in turn. The selection is shown first. With a filter all matching tests run.
    Test(TestArgs),
    /// Measures how long the blackout of a guest is, and compares it with alternatives.
    ///
    /// Each figure has a baseline from the same run on the same host: another machine gives other
    /// figures, but the same ratios. Without a filter it takes an hour or two.
    Bench(BenchArgs),
    /// Updates one guest again and again, in random ways, and checks that nothing is left.
    ///
    /// The VMM is replaced, replacements fail, updates of the host fail and are cancelled, while the
    /// guest uses its disk and its network. An update takes one to three seconds. With --kexecs the
    /// host is updated in between.
    Soak(SoakArgs),
    /// Has several processes make random ioctls on boxes that they share, and kills some of them.
    ///
    /// Each errno must be a documented one, and what is taken out of a box must be what was put in. With --debug,
    /// allocations fail in some of the calls, and the kernel is searched for leaks at the end.
    Ioctls(IoctlsArgs),
    /// Builds everything that is missing, and runs nothing.
    Build(BuildArgs),
    /// Makes Debian packages: the module, to be built by DKMS, and the VMM.
    ///
    /// They are built in the toolchain and judged by lintian, whose errors are errors. Their names are printed.
    Package(PackageArgs),
    /// Runs fuzz targets: what reads bytes from guests, other programs, other kernels and operators.
    ///
    /// They are built with coverage counters, and inputs that reach new code are kept. An input that fails is written
    /// to a file, and the command that replays it is shown; the exit status is 1 then.
    Fuzz(FuzzArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    /// The folder that they are written to.
    #[arg(long, value_name = "DIR", default_value = "target/packages")]
    pub out: PathBuf,
    /// Install them in a toolchain that is thrown away, have DKMS build the module for a patched kernel and refuse
    /// it for an unpatched one, and remove them: nothing is left.
    #[arg(long)]
    pub check: bool,
    /// Also make packages of patched kernels and their headers, by the kernel's own `bindeb-pkg`, and of the module for
    /// each.
    #[arg(long, value_name = "CONFIGURATION", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "small")]
    pub kernel: Option<Configuration>,
}

/// What packaged kernels have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Configuration {
    /// Two kernels with what a Debian system needs in a virtual machine like the lab's, and hardly any drivers.
    Small,
    /// One kernel with what Debian's own has, and what FDBox needs. Building it takes hours.
    Debian,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Only this kernel, the kernels it is built from, and its module. May be repeated.
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
    /// Add a file to the host: local path, colon, path in the host. May be repeated. A program must
    /// be statically linked.
    #[arg(long = "file", value_name = "SRC:DST", value_parser = parse_file)]
    pub files: Vec<(PathBuf, String)>,
    /// Add to the host's kernel command line.
    #[arg(long, value_name = "S", default_value = "", allow_hyphen_values = true)]
    pub cmdline_extra: String,
    /// Leave the module out.
    #[arg(long)]
    pub no_module: bool,
    /// Add what a guest needs, for your own VMM: its kernel and initramfs at /guest/kernel and
    /// /guest/initramfs in the first kernel, and in every kernel a drive, /dev/vda, a network card,
    /// eth0, and vmm-example.
    #[arg(long)]
    pub guest: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Run this with /bin/sh in the first kernel. May be repeated.
    #[arg(long, value_name = "CMD")]
    pub before: Vec<String>,
    /// Run this with /bin/sh in the second kernel. May be repeated.
    #[arg(long, value_name = "CMD")]
    pub after: Vec<String>,
    /// Stay in the first kernel: run the commands of both there.
    #[arg(long)]
    pub no_kexec: bool,
    /// Give up if the commands of one kernel take longer.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Write what happened to a file, for programs.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Run only, and all of, the tests with one of these in their names.
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Run all tests.
    #[arg(long)]
    pub(crate) all: bool,
    /// Run part K of N of the scenarios, in addition to those that run always.
    #[arg(long, value_name = "K/N", conflicts_with_all = ["all", "filters"])]
    pub(crate) part: Option<Part>,
    /// List the hosts that would run, with their tests, and run nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// The CPUs of the scenarios' hosts, except for debug kernels and other versions. Default: what their kind has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) cpus: Option<u32>,
    /// Record in the checkout how long each host took: the parts are balanced by that.
    #[arg(long)]
    pub(crate) note_costs: bool,
    /// Record in docs/kernels.md which pairs of kernels work, of those that run.
    #[arg(long)]
    pub(crate) note_kernels: bool,
    /// Show the consoles of the hosts as well; then one host at a time, unless --lanes is given.
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Number of hosts to run at a time. Default: the number of CPUs, but at most one per 6 GiB of
    /// available memory, and at most 8.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) lanes: Option<u8>,
    /// Write the verdicts to a file, for people: a self-contained page.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Write the verdicts to a file, for programs.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Measure only parts with one of these in their names.
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Only the smallest guests, each figure once: to check that it works.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure only guests and memfds of these sizes, in MiB.
    #[arg(long, value_name = "MIB", value_delimiter = ',')]
    pub(crate) ram: Vec<u64>,
    /// Measure each figure this many times. Default: 3, or 1 with --quick.
    #[arg(long, value_name = "N")]
    pub(crate) repeats: Option<usize>,
    /// Count instructions, one per nanosecond, as large always does: only floor, host_update, memfd and against.
    /// The figures do not include the time the emulator takes to translate code that runs for the
    /// first time, and do not depend on the load of the machine.
    #[arg(long)]
    pub(crate) instructions: bool,
    /// Compare this checkout's VMM with another one, in turn in the same run: a file (statically
    /// linked), or a commit, which is built. The parts `against` exist only with this option.
    #[arg(long, value_name = "FILE or COMMIT")]
    pub(crate) against: Option<String>,
    /// Write the figures to a file, for people: a self-contained page with charts.
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Write the figures to a file, for programs.
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
