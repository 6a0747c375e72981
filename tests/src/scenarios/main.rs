//! The tests that run in the emulated host: each has one function per kernel.

mod bench;
mod boat;
mod cases;
mod check;
mod console;
mod failing;
mod fdbox;
mod fleet;
mod guest;
mod hijack;
mod host;
mod hugetlb;
mod kexec;
mod kunit;
mod kvm;
mod leaks;
mod luo;
mod memory;
mod network;
mod passthrough;
mod probe;
mod reads;
mod report;
mod spare;
mod traffic;
mod uapi;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use fdbox_lab::event::{Event, EventPort};

use crate::cases::{Cx, Scenario};

/// `lab-scenarios list`, or `lab-scenarios run STAGE NAME`.
fn main() -> ExitCode {
    if std::process::id() == 1 {
        bench::first();
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["list"] => list(),
        ["run", stage, name] => run(stage, name),
        ["leaks", stage] => leaks(stage),
        ["bench", words @ ..] => bench::run(words),
        ["help", helper, argument] => cases::help(helper, argument),
        _ => Err(anyhow::anyhow!(
            "Usage: lab-scenarios list | run STAGE NAME"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<()> {
    let listed: Vec<_> = cases::all().into_iter().map(Scenario::listed).collect();
    println!("{}", serde_json::to_string(&listed)?);
    Ok(())
}

/// Checks for leaks as a scenario of its own: any scenario before it may be the cause. The module's
/// unit tests ran when it was loaded.
fn leaks(stage: &str) -> Result<()> {
    tell("leaks", stage_number(stage)?, |_| {
        kunit::check()?;
        leaks::check()
    })
}

fn stage_number(stage: &str) -> Result<usize> {
    stage.parse().context("STAGE is a number from 1 up")
}

/// Runs one scenario's function for this stage.
fn run(stage: &str, name: &str) -> Result<()> {
    let stage = stage_number(stage)?;
    let all = cases::all();
    let Some(scenario) = all.iter().find(|scenario| scenario.name == name) else {
        bail!("There is no scenario {name}");
    };
    let Some(function) = stage
        .checked_sub(1)
        .and_then(|index| scenario.stages.get(index))
    else {
        bail!("{name} has no stage {stage}");
    };
    tell(name, stage, function)
}

/// Runs `act` and reports the result.
fn tell(name: &str, stage: usize, act: impl FnOnce(&Cx<'_>) -> Result<()>) -> Result<()> {
    let port = EventPort::open().context("Open the event port")?;
    let started = Instant::now();
    let cx = Cx { port: &port };
    let error = act(&cx).err().map(|error| format!("{error:#}"));
    // A guest that it has left behind would take the CPU from the next scenario. One whose VMM was replaced is nobody's
    // child.
    if error.is_some() {
        guest::kill_all()?;
    }
    port.send(&Event::Scenario {
        name: name.to_owned(),
        stage,
        error,
        millis: started.elapsed().as_millis() as u64,
    })?;
    Ok(())
}
