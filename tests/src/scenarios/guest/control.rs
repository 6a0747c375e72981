//! Commands of an operator for a guest and its update, run as separate processes.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;

use super::{END_LIMIT, Ended, Guest, VMM};
use crate::check::equal;

/// `vmm-example VERB` with a guest's API socket.
pub(crate) fn command(verb: &str, api: &Path) -> Result<Ended> {
    let mut command = Command::new(VMM);
    Ended::of(command.args([verb, "--api-socket"]).arg(api))
}

impl Guest {
    /// The same for this guest.
    pub(crate) fn command(&self, verb: &str) -> Result<Ended> {
        command(verb, &self.spec.api())
    }

    /// The same with additional arguments.
    pub(crate) fn command_with(&self, verb: &str, more: &[&str]) -> Result<Ended> {
        let mut command = Command::new(VMM);
        command.args([verb, "--api-socket"]).arg(self.spec.api());
        Ended::of(command.args(more))
    }

    /// Begins an update of the host, which must be cancelled or fail.
    pub(crate) fn start_update(&self, arguments: &[&str]) -> Result<Updating> {
        Updating::start(&mut self.update_command(arguments)?)
    }

    /// Sends the VMM a signal that asks it to exit.
    pub(crate) fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.vmm.signal(signal)
    }

    /// Waits for the VMM to exit, which must be successful.
    pub(crate) fn wait_for_end(mut self) -> Result<()> {
        let status = self.vmm.wait(END_LIMIT)?;
        ensure!(status.success(), "The VMM ended with {status}");
        Ok(())
    }

    pub(crate) fn shut_down(mut self) -> Result<()> {
        self.command("shutdown")?.expect(0)?;
        let status = self.vmm.wait(END_LIMIT)?;
        ensure!(status.success(), "The VMM ended with {status}");
        let left = self.spec.api().exists();
        equal("The API socket after the guest's end", left, false)
    }
}

/// An update in progress. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Updating {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Updating {
    /// Its error output goes to that of this process.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().context("Run vmm-example")?;
        let out = process.stdout.take().context("The update's pipe")?;
        let lines = BufReader::new(out).lines();
        Ok(Self { process, lines })
    }

    /// Asks it to exit (SIGTERM).
    pub(crate) fn interrupt(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_on(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.process.id() as i32).context("A process has a number")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it has stopped itself (`--stop-at`).
    pub(crate) fn wait_for_stop(&self) -> Result<()> {
        let pid = Pid::from_raw(self.process.id() as i32).context("A process has a number")?;
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED)?.context("A status")?;
        ensure!(status.stopped(), "The update ended: {status:?}");
        Ok(())
    }

    /// Reads lines until `wanted` accepts one, and returns that.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        for line in self.lines.by_ref() {
            let line = line?;
            println!("{line}");
            if wanted(&line) {
                return Ok(line);
            }
        }
        bail!("The update ended without {what}")
    }

    /// Waits for its end, and returns the rest of its output.
    pub(crate) fn end(mut self) -> Result<Ended> {
        let mut text = String::new();
        for line in self.lines.by_ref() {
            let line = line?;
            println!("{line}");
            writeln!(text, "{line}")?;
        }
        let status = self.process.wait()?.code();
        Ok(Ended { status, text })
    }
}

impl Drop for Updating {
    fn drop(&mut self) {
        // Both fail only if it is already gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `vmm-example events`, from its first line on. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    pub(crate) fn start(api: &Path) -> Result<Self> {
        let mut process = Command::new(VMM)
            .args(["events", "--api-socket"])
            .arg(api)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = process.stdout.take().context("The events' pipe")?;
        let lines = BufReader::new(out).lines();
        let mut watch = Self { process, lines };
        let first = watch.next()?.context("events printed nothing")?;
        equal("The first event", &first["event"], &"listening".into())?;
        Ok(watch)
    }

    fn next(&mut self) -> Result<Option<Value>> {
        let line = self.lines.next().transpose()?;
        Ok(line.map(|line| serde_json::from_str(&line)).transpose()?)
    }

    /// All events up to one with this name, and with this step if one is given; includes that
    /// event.
    pub(crate) fn until(&mut self, event: &str, step: Option<&str>) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        while let Some(next) = self.next()? {
            let found = next["event"] == event && step.is_none_or(|step| next["step"] == step);
            events.push(next);
            if found {
                return Ok(events);
            }
        }
        bail!("The guest ended without {event} {step:?}: {events:?}")
    }

    /// All events until the guest's end.
    pub(crate) fn end(mut self) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        while let Some(next) = self.next()? {
            events.push(next);
        }
        let status = self.process.wait()?;
        ensure!(status.success(), "events ended with {status}");
        Ok(events)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Both fail only if it is already gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
