//! `resume --box`: one guest, which belongs to whoever started this process. Its VMM gets this
//! process's standard input and output, and this process waits for its end.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, bail};
use rustix::io::Errno;
use vmm_fdbox::coordinator::{Child, Ended};
use vmm_fdbox::update::{ExitStatus, UpdateError};
use vmm_fdbox::{BoxName, BoxStore, Control, Deadline};

use super::{Resumed, drive, looking, privileges};
use crate::cli::{ResumeArgs, SandboxArgs};
use crate::commands::{interrupt, keeper, signal};
use crate::error::{printable, say, warn};

pub(super) fn resume(args: &ResumeArgs, name: &BoxName) -> anyhow::Result<ExitStatus> {
    let control = keeper::open(&args.home, true)?;
    // What the guest's console reads from; without CLOEXEC, because it is for the VMM.
    let stdin = rustix::io::dup(rustix::stdio::stdin()).context("Cannot pass standard input on")?;
    let privileges = privileges(&control, name, args)?;
    let command = command(args, privileges, stdin.as_raw_fd());
    let command = command.context("Cannot find this program")?;
    // On this very thread, because the VMM ends with it.
    let started = Child::spawn(command)?;
    if let Err(error) = look_for(&control, name) {
        warn(&format!("Cannot resume {name}: open failed: {error}"));
        return Ok(ExitStatus::NothingChanged);
    }
    let came = drive(
        args,
        &control,
        vec![(name.clone(), Box::new(move || Ok(started)))],
    );
    let Some(mut came) = came.into_iter().next() else {
        bail!("The resume returned no result");
    };
    // The VMM has its own copies.
    drop((stdin, control));
    match came.resumption.child.take() {
        Some(child) => {
            show(args, &came)?;
            wait(child)
        }
        None => {
            let why = came.resumption.message.clone().unwrap_or_default();
            warn(&format!("Cannot resume {name}: {why}"));
            Ok(came.exit_status())
        }
    }
}

/// Returns why there is no such box: the module knows whether it refused one.
fn look_for(control: &Control, name: &BoxName) -> Result<(), UpdateError> {
    match control.open_box(name) {
        Err(error) if error.errno() == Errno::NOENT => {
            let refused =
                BoxStore::info(control).is_ok_and(|info| info.features.handover_refused());
            Err(match refused {
                true => UpdateError::HandoverRefused(name.clone()),
                false => UpdateError::NoGuest(name.clone()),
            })
        }
        _ => Ok(()),
    }
}

fn command(args: &ResumeArgs, privileges: SandboxArgs, stdin: i32) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["member", "--stdin", &stdin.to_string()]);
    command.arg(format!("--console={}", args.console));
    if let Some(path) = &args.api_socket {
        command.arg("--api-socket").arg(path);
    }
    command.args(looking(args, args.status_socket.as_deref()));
    command.args(privileges.arguments());
    command.args(args.force.argument());
    for net in &args.nets {
        command.arg(format!("--net=fd={}", net.0));
    }
    Ok(command)
}

fn show(args: &ResumeArgs, came: &Resumed) -> anyhow::Result<()> {
    let Some(report) = &came.report else {
        return Ok(());
    };
    if args.json {
        say(&serde_json::to_string(report)?);
    } else {
        // If standard error is closed, there is nobody to tell.
        let _ = write!(io::stderr(), "{}", printable(&report.to_string()));
    }
    Ok(())
}

/// Exits as the VMM does. A signal that ends this process ends the VMM.
fn wait(mut child: Child) -> anyhow::Result<ExitStatus> {
    let pid = child.id();
    // Not reaped yet, so the number cannot have been reused.
    interrupt::each(move |came| signal::send(pid, came))?;
    loop {
        match child.wait(Deadline::within(Duration::MAX)) {
            Some(Ended::Exited(0)) => return Ok(ExitStatus::Done),
            // The VMM has already reported the reason.
            Some(Ended::Exited(_)) => return Ok(ExitStatus::Error),
            Some(ended) => bail!("The guest's VMM is gone: {ended}"),
            None => thread::sleep(Duration::from_millis(100)),
        }
    }
}
