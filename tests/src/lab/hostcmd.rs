//! `cargo lab host` and `cargo lab shell`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fdbox_lab::event::{Event, Stream};
use fdbox_lab::scenario::Devices;
use serde_json::json;

use crate::cli::{HostArgs, MachineArgs, ShellArgs};
use crate::guest::GuestFiles;
use crate::host::{Ending, Host, HostSpec, StageSpec};
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::lines::{Line, LineContent};
use crate::programs;
use crate::run::Record;
use crate::tsc::Clocks;

/// Exit status if the host itself fails, as opposed to a command in it.
pub(crate) const HOST_FAILED: u8 = 70;

pub(crate) fn host(args: &HostArgs) -> Result<ExitCode> {
    let (record, dir) = follow(&Lab::open()?, args, show)?;
    for failure in &record.failures {
        eprintln!("lab: {failure}");
    }
    let status = status(&record);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report(&record, status))?;
        std::fs::write(path, text).with_context(|| format!("Write {}", path.display()))?;
    }
    if !record.failures.is_empty() {
        eprintln!("lab: the logs are in {}", dir.display());
    }
    Ok(ExitCode::from(status))
}

/// Runs the requested host to its end. Also returns the folder of its logs.
pub(crate) fn follow(
    lab: &Lab,
    args: &HostArgs,
    seen: impl FnMut(&Line),
) -> Result<(Record, PathBuf)> {
    let host = prepare(lab, spec(args), &args.machine)?;
    let record = host.run(lab, seen)?;
    Ok((record, host.dir))
}

fn spec(args: &HostArgs) -> HostSpec {
    let stage = |kernel, commands: &[&[String]], then| StageSpec {
        kernel,
        modules: modules(&args.machine),
        commands: commands.concat(),
        files: Vec::new(),
        then,
    };
    let stages = if args.no_kexec {
        vec![stage(
            Flavour::A,
            &[&args.before, &args.after],
            Ending::PowerOff,
        )]
    } else {
        vec![
            stage(Flavour::A, &[&args.before], Ending::Kexec),
            stage(Flavour::B, &[&args.after], Ending::PowerOff),
        ]
    };
    host_spec(
        "host",
        &args.machine,
        stages,
        Duration::from_secs(args.timeout),
    )
}

/// Adds what a guest needs, if that was requested.
fn prepare(lab: &Lab, mut spec: HostSpec, args: &MachineArgs) -> Result<Host> {
    if !args.guest {
        return spec.prepare(lab, &lab.programs(&[programs::INIT])?);
    }
    let programs = lab.programs(&[programs::INIT, programs::VMM, programs::WITNESS])?;
    let guest = GuestFiles::get(lab, &programs)?;
    spec.guests = 1;
    for (index, stage) in spec.stages.iter_mut().enumerate() {
        stage.files.extend(guest.of_stage(index));
    }
    spec.prepare(lab, &programs)
}

fn host_spec(
    name: &str,
    args: &MachineArgs,
    stages: Vec<StageSpec>,
    stage_limit: Duration,
) -> HostSpec {
    HostSpec {
        name: name.to_owned(),
        memory_mib: args.memory,
        cpus: args.cpus,
        cmdline: args.cmdline_extra.clone(),
        files: args.files.clone(),
        with_modules: !args.no_module,
        devices: Devices::None,
        stages,
        stage_limit,
        guests: 0,
        clocks: Clocks::Time,
    }
}

fn modules(args: &MachineArgs) -> Vec<String> {
    if args.no_module {
        Vec::new()
    } else {
        vec!["fdbox".to_owned()]
    }
}

/// Prints a line of the host: its commands' output unchanged, everything else on stderr.
pub(crate) fn show(line: &Line) {
    let at = line.at.as_secs_f64();
    match &line.content {
        LineContent::Console(text) => eprintln!("console| {text}"),
        LineContent::Boat(text) => eprintln!("boat   | {text}"),
        LineContent::Noise(text) => eprintln!("events | {text}"),
        LineContent::Closed => {}
        LineContent::Event(event) | LineContent::BoatEvent(event) => match event {
            Event::Output {
                stream: Stream::Stdout,
                text,
            } => {
                // If nobody reads the output, the exit status still has the result.
                let _ = writeln!(std::io::stdout(), "{text}");
            }
            Event::Output {
                stream: Stream::Stderr,
                text,
            } => eprintln!("{text}"),
            Event::Hello(hello) => {
                eprintln!(
                    "lab: [{at:7.2} s] kernel {}: {}",
                    hello.stage, hello.release
                );
            }
            Event::Guest { text, .. } => eprintln!("guest  | {text}"),
            Event::Scenario {
                name,
                stage,
                error: Some(error),
                ..
            } => {
                eprintln!("lab: [{at:7.2} s] {name}, kernel {stage}: {error}");
            }
            Event::Jump => eprintln!("lab: [{at:7.2} s] kexec"),
            Event::Exit { command, status } if *status != 0 => {
                eprintln!(
                    "lab: [{at:7.2} s] command {}: exit status {status}",
                    command + 1
                );
            }
            _ => {}
        },
    }
}

/// The first exit status other than 0; a host that failed has a status of its own.
pub(crate) fn status(record: &Record) -> u8 {
    if !record.failures.is_empty() {
        return HOST_FAILED;
    }
    let failed = record
        .exits
        .iter()
        .map(|(_, _, status)| *status)
        .find(|status| *status != 0);
    failed.map_or(0, |status| u8::try_from(status).unwrap_or(u8::MAX))
}

fn report(record: &Record, status: u8) -> serde_json::Value {
    json!({
        "status": status,
        "failures": record.failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "kernels": record.hellos.iter().map(|(_, hello)| hello).collect::<Vec<_>>(),
        "commands": record.exits.iter().map(|(stage, command, status)| {
            json!({ "kernel": stage, "command": command, "status": status })
        }).collect::<Vec<_>>(),
    })
}

pub(crate) fn shell(args: &ShellArgs) -> Result<ExitCode> {
    let lab = Lab::open()?;
    let stage = StageSpec {
        kernel: Flavour::A,
        modules: modules(&args.machine),
        commands: Vec::new(),
        files: Vec::new(),
        then: Ending::Shell,
    };
    let update = StageSpec {
        kernel: Flavour::B,
        ..stage.clone()
    };
    let spec = host_spec("shell", &args.machine, vec![stage, update], Duration::MAX);
    let host = prepare(&lab, spec, &args.machine)?;
    eprintln!("lab: `exit` ends it, Ctrl-A X kills it. The next kernel is in /update.");
    let mut qemu = host.machine.command(&lab.toolchain, &host.dir)?;
    qemu.args([
        "-chardev",
        "stdio,id=console,signal=off,mux=on",
        "-serial",
        "chardev:console",
    ]);
    qemu.args([
        "-mon",
        "chardev=console",
        "-chardev",
        "file,id=events,path=/lab/run/events.log",
    ]);
    qemu.args(["-serial", "chardev:events"]);
    let status = qemu.stdin(Stdio::inherit()).status().context("Run QEMU")?;
    std::fs::remove_file(&host.machine.initramfs)?;
    if !status.success() {
        bail!("QEMU: {status}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunFailure;

    #[test]
    fn the_first_failing_command_decides_unless_the_host_failed() {
        let mut record = Record::default();
        assert_eq!(status(&record), 0);
        record.exits = vec![(1, 0, 0), (1, 1, 3), (2, 0, 4)];
        assert_eq!(status(&record), 3);
        record.exits[1].2 = 137;
        assert_eq!(status(&record), 137);
        record.failures.push(RunFailure {
            text: "lost".into(),
            during: None,
        });
        assert_eq!(status(&record), HOST_FAILED);
    }
}
