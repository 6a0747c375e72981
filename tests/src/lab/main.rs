//! `cargo lab`: builds, boots and judges a host that can be updated under its guests.

mod attached;
mod bench;
mod boat;
mod cache;
mod cli;
mod command;
mod cpio;
mod deb;
mod debian;
mod debian_guest;
mod demo;
mod drive;
mod emulator;
mod files;
mod frames;
mod fuzz;
mod guest;
mod host;
mod hostcmd;
mod image;
mod ioctls;
mod kconfig;
mod kernel;
mod lab;
mod landings;
mod lines;
mod machine;
mod module;
mod nudge;
mod outside;
mod package;
mod page;
mod policy;
mod power;
mod programs;
mod progress;
mod proof;
mod qemu;
mod qemu_files;
mod run;
mod scenario_host;
mod selftests;
mod soak;
mod source;
mod stages;
mod stale;
mod suite;
mod toolchain;
mod tsc;
mod verdict;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::cli::{BuildArgs, Cli, Command};
use crate::kernel::Flavour;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match act(&cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(hostcmd::HOST_FAILED)
        }
    }
}

fn act(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Host(args) => hostcmd::host(args),
        Command::Shell(args) => hostcmd::shell(args),
        Command::Demo(args) => demo::run(args),
        Command::Test(args) => suite::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Soak(args) => soak::run(args),
        Command::Ioctls(args) => ioctls::run(args),
        Command::Build(args) => build(args),
        Command::Package(args) => deb::run(args),
        Command::Fuzz(args) => fuzz::run(args),
    }
}

fn build(args: &BuildArgs) -> Result<ExitCode> {
    let lab = lab::Lab::open()?;
    let flavours = match args.kernel.as_slice() {
        [] => &[Flavour::Stock, Flavour::A, Flavour::B],
        these => these,
    };
    for flavour in flavours {
        lab.build(*flavour)?;
    }
    if args.kernel.is_empty() {
        lab.programs(&[
            programs::INIT,
            programs::SCENARIOS,
            programs::WITNESS,
            programs::VMM,
            programs::LATER_VMM,
        ])?;
    }
    Ok(ExitCode::SUCCESS)
}
