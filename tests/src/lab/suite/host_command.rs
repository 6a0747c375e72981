//! Runs `cargo lab host` with the C program in docs/uapi.md, and with the library's example VMM,
//! which jumps by itself.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use super::Suite;
use super::lanes::Job;
use crate::cli::{Cli, Command};
use crate::lab::Lab;
use crate::programs::PAGES;
use crate::{command, hostcmd, run};

/// One invocation of the command.
struct Test {
    name: &'static str,
    /// Added to the arguments that put the page into a box and take it out.
    more: &'static [&'static str],
    /// Whether the VMM is included.
    with_vmm: bool,
    kernels: usize,
    /// The expected exit status.
    status: u8,
}

const TESTS: [Test; 2] = [
    Test {
        name: "host/c-example",
        // The last command before the kexec is the one that jumps.
        more: &[
            "--guest",
            "--before",
            "[ -s /guest/kernel ] && [ -s /guest/initramfs ] && [ -b /dev/vda ] && vmm-example --version",
            "--before",
            "/bin/pages trace /update/kernel /bin/pages $LAB_NEXT_CMDLINE",
            "--before",
            "/bin/pages update /update/kernel /update/initramfs $LAB_NEXT_CMDLINE",
            "--after",
            "/bin/pages resume",
        ],
        with_vmm: true,
        kernels: 2,
        status: 0,
    },
    // The box no longer exists then: the program fails, and so does the command, with the same
    // status.
    Test {
        name: "host/c-example-no-kexec",
        more: &["--no-kexec", "--after", "/bin/client after"],
        with_vmm: false,
        kernels: 1,
        status: 1,
    },
];

/// What the program prints when it has taken the page out of the box.
const GREETING: &str = "hello";
/// What the VMM prints when its guest runs.
const COUNTED: &str = "The guest counted on, from ";

/// One job per host.
pub(super) fn jobs<'a>(suite: &Suite<'a>, verbose: bool) -> Vec<Job<'a>> {
    let lab = suite.lab;
    let wanted = TESTS.into_iter().filter(|test| suite.wants(test.name));
    let job = |test: Test| Job::of_one(test.name, test.kernels, move || judge(lab, &test, verbose));
    wanted.map(job).collect()
}

fn judge(lab: &Lab, test: &Test, verbose: bool) -> Result<()> {
    let dir = run::folder(&lab.cache, test.name)?;
    build(lab, test.name, &dir)?;
    let file = format!("{}:/bin/client", dir.join("client").display());
    let mut words = vec!["lab", "host", "--file", &file];
    let vmm = lab.programs(&[PAGES])?.path(PAGES);
    let vmm = format!("{}:/bin/pages", vmm.display());
    if test.with_vmm {
        words.extend(["--file", &vmm]);
    }
    let commands = [
        "--before",
        "/bin/client before",
        "--after",
        "/bin/client after",
    ];
    let cli = Cli::try_parse_from([&words[..], &commands, test.more].concat())?;
    let Command::Host(args) = cli.command else {
        bail!("These are not arguments of `cargo lab host`");
    };
    let (record, logs) = hostcmd::follow(lab, &args, |line| {
        if verbose {
            hostcmd::show(line);
        }
    })?;
    let failures: Vec<_> = record.failures.iter().map(ToString::to_string).collect();
    let logs = logs.display();
    ensure!(failures.is_empty(), "{}\nLogs: {logs}", failures.join("\n"));
    let kernels = record.hellos.len();
    ensure!(kernels == test.kernels, "{kernels} kernels booted");
    let status = hostcmd::status(&record);
    ensure!(
        status == test.status,
        "Exit status {status}, not {}\nLogs: {logs}",
        test.status
    );
    let lines = record.output.iter().filter(|(_, text)| text == GREETING);
    ensure!(
        lines.count() == 1,
        "It did not print {GREETING} once: {:?}",
        record.output
    );
    let mut output = record.output.iter();
    let counted = output
        .any(|(at, text)| at.is_some_and(|(stage, _)| stage == 2) && text.starts_with(COUNTED));
    ensure!(
        counted == test.with_vmm,
        "The VMM printed: {:?}",
        record.output
    );
    Ok(())
}

/// Builds the program, statically linked.
fn build(lab: &Lab, name: &str, dir: &Path) -> Result<()> {
    let page = fs::read_to_string(lab.checkout.join("docs/uapi.md"))?;
    let example = page
        .split_once("```c\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .context("docs/uapi.md has no program in C")?;
    fs::write(dir.join("client.c"), example.0)?;
    let header = lab.checkout.join("kmod/include/uapi");
    let mounts = [(dir, "/lab/work"), (header.as_path(), "/lab/uapi")];
    let mut sh = lab.toolchain.command(&mounts, "sh");
    let script = "exec 2>&1; cd /lab/work; \
        gcc -static -Wall -Wextra -Werror -I/lab/uapi -o client client.c";
    let log = lab.fresh_log(&name.replace('/', "-"))?;
    command::logged(sh.args(["-ec", script]), &log, |_| {}).context("Build the program in C")
}
