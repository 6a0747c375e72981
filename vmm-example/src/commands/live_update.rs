//! `live-update`: have a VMM update the host under its guest.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, bail};
use vmm_fdbox::update::ExitStatus;

use super::fleet;
use super::progress::Progress;
use super::resume::write_report;
use super::table::table;
use crate::cli::LiveUpdateArgs;
use crate::error::{chain, say, warn};
use crate::service::api::Client;
use crate::service::api::protocol::{NextKernelFiles, Reply, Request, UpdateRequest};
use crate::service::told::{EventKind, UpdateEnd, UpdateEvent};

pub(super) fn live_update(args: LiveUpdateArgs) -> anyhow::Result<ExitStatus> {
    if fleet::is_meant(&args) {
        return fleet::live_update(args);
    }
    let (json, report) = (args.json, args.report.clone());
    let socket = args.api_socket.first().context("No --api-socket")?;
    let mut client = Client::connect(socket)?;
    let request = Request::LiveUpdate(request(args)?);
    let progress = (!json).then(Progress::start);
    let reply = client.ask(&request, |reply| match (reply, &progress) {
        (reply, None) => print_json(reply),
        (Reply::Event(event), Some(progress)) => show(event, progress),
        _ => {}
    });
    drop(progress);
    let reply = reply?;
    let end = match &reply {
        Reply::UpdateEnd(end) => end.clone(),
        Reply::Error { message } => bail!("{message}"),
        other => bail!("The VMM gave an unexpected answer: {other:?}"),
    };
    if let (Some(path), Some(content)) = (&report, &end.report)
        && let Err(error) = write_report(path, &content.to_string())
    {
        // The update is what the command is about, and it went as it did.
        warn(&format!(
            "The guest runs, but its report is lost: {}",
            chain(error.as_ref())
        ));
    }
    if json {
        print_json(&reply);
    } else {
        print_end(&end);
    }
    if end.has_left() {
        // Whoever looks for the old VMM finds it gone.
        client.wait_for_end();
    }
    exit_status(end.exit_status)
}

fn request(args: LiveUpdateArgs) -> anyhow::Result<UpdateRequest> {
    let next = args
        .kernel
        .map(|kernel| next_kernel(&kernel, args.initramfs, args.cmdline, args.assume_patches));
    Ok(UpdateRequest {
        next: next.transpose()?,
        timeout: args.binary.is_some().then_some(args.timeout),
        binary: args.binary.map(absolute).transpose()?,
        box_name: args.box_name.map(|name| name.to_string()),
        dry_run: args.dry_run,
        fail_at: args.fail_at.map(|step| step.name().into()),
        cancel_after: args.cancel_after.map(|step| step.name().into()),
    })
}

/// The VMM has another working directory: it gets absolute paths.
pub(super) fn next_kernel(
    kernel: &Path,
    initramfs: Option<PathBuf>,
    cmdline: Option<String>,
    assume_patches: bool,
) -> anyhow::Result<NextKernelFiles> {
    let cmdline = match cmdline {
        Some(cmdline) => cmdline,
        None => fs::read_to_string("/proc/cmdline")
            .context("Cannot read this kernel's command line: give --cmdline")?
            .trim_end()
            .into(),
    };
    Ok(NextKernelFiles {
        kernel: absolute(kernel)?,
        initramfs: initramfs.map(absolute).transpose()?,
        cmdline,
        assume_patches,
    })
}

fn print_json(reply: &Reply) {
    if let Ok(line) = serde_json::to_string(reply) {
        say(&line);
    }
}

/// Shows an event, and what goes on after it.
fn show(event: &UpdateEvent, progress: &Progress) {
    progress.clear();
    say(&describe(event));
    let step = event.step.as_deref().unwrap_or_default();
    match (event.event, step) {
        // Nothing is written while the guest stands.
        (EventKind::Started, "pause") => progress.say(""),
        (EventKind::Started, step) => progress.say(step),
        (EventKind::Progress, step) => {
            progress.say(&format!(
                "{step}: {}",
                event.message.as_deref().unwrap_or_default()
            ));
        }
        _ => progress.say(""),
    }
}

/// An event as a line.
pub(super) fn describe(event: &UpdateEvent) -> String {
    let step = event.step.as_deref().unwrap_or_default();
    let message = event.message.as_deref().unwrap_or_default();
    let what = match event.event {
        EventKind::Warning => format!("warning: {message}"),
        EventKind::Started => format!("{step} ..."),
        EventKind::Done => format!("{step} done"),
        EventKind::Failed => format!("{step} failed: {message}"),
        EventKind::RollingBack => "rolling back".into(),
        EventKind::Problem => format!("problem: {message}"),
        EventKind::Progress => format!("{step}: {message}"),
        EventKind::Other => message.into(),
    };
    format!("{:>10.3} ms  {what}", event.ns as f64 / 1e6)
}

/// What an operator reads last: on standard output if it went well.
fn print_end(end: &UpdateEnd) {
    let severity = |blocker| if blocker { "blocker" } else { "warning" };
    let rows: Vec<_> = end
        .findings
        .iter()
        .map(|found| {
            [
                severity(found.blocker).to_owned(),
                found.subject.clone(),
                found.problem.clone(),
                found.remedy.clone(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        say(table(["SEVERITY", "WHAT", "PROBLEM", "WHAT TO DO"], &rows).trim_end());
    }
    if end.exit_status == ExitStatus::Done.code() {
        say(end.message.trim_end());
        return;
    }
    warn(&end.message);
    if let Some(ns) = end.paused_ns {
        let millis = ns as f64 / 1e6;
        // As `say`, to where errors go.
        let _ = writeln!(io::stderr(), "The guest stood still for {millis:.3} ms");
    }
}

fn exit_status(code: u8) -> anyhow::Result<ExitStatus> {
    let all = [
        ExitStatus::Done,
        ExitStatus::Error,
        ExitStatus::NothingChanged,
        ExitStatus::RolledBack,
        ExitStatus::GuestLost,
    ];
    all.into_iter()
        .find(|status| status.code() == code)
        .with_context(|| format!("The VMM reports exit status {code}, which means nothing"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::service::told::UpdateResult;

    #[test]
    fn paths_reach_the_vmm_absolute() {
        let next = next_kernel(
            Path::new("k"),
            Some("i".into()),
            Some("kho=on".into()),
            false,
        )
        .unwrap();
        assert!(next.kernel.is_absolute() && next.initramfs.unwrap().is_absolute());
        assert_eq!(next.cmdline, "kho=on");
    }

    /// A VMM that says, once, that another one runs its guest.
    fn done(socket: &Path) -> JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        let end = UpdateEnd {
            result: UpdateResult::Done,
            message: "vm0 runs".into(),
            report: Some(serde_json::json!({"result": "done"})),
            ..UpdateEnd::ready()
        };
        let line = serde_json::to_string(&Reply::UpdateEnd(end)).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            BufReader::new(&stream).read_line(&mut asked).unwrap();
            writeln!(&stream, "{line}").unwrap();
        })
    }

    #[test]
    fn a_report_that_cannot_be_written_is_no_failure_of_the_update() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api");
        for report in ["/dev/full", "/no/such/folder/report"] {
            let vmm = done(&socket);
            let line = format!(
                "x live-update --api-socket {} --binary /b --report",
                socket.display()
            );
            let words = line.split(' ').chain([report]);
            let Command::LiveUpdate(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!("no live-update");
            };
            assert_eq!(live_update(args).unwrap(), ExitStatus::Done, "{report}");
            vmm.join().unwrap();
            fs::remove_file(&socket).unwrap();
        }
    }

    #[test]
    fn every_exit_status_has_its_number() {
        for code in [0, 1, 10, 11, 12] {
            assert_eq!(exit_status(code).unwrap().code(), code);
        }
        assert!(exit_status(2).is_err());
    }
}
