//! The VMM as a process: one that runs a guest, and one that has ended.

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A command of the VMM that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    /// Its output, both streams.
    pub(crate) text: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Result<Self> {
        let output = command
            .stdin(Stdio::null())
            .output()
            .context("Run vmm-example")?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        print!("{text}");
        Ok(Self {
            status: output.status.code(),
            text,
        })
    }

    /// The same for a command that leaves processes behind: they inherit its streams, whose end is
    /// not waited for.
    pub(crate) fn of_long_lived(command: &mut Command) -> Result<Self> {
        let status = command.stdin(Stdio::null()).status();
        Ok(Self {
            status: status.context("Run vmm-example")?.code(),
            text: String::new(),
        })
    }

    /// Checks that the exit status is this one.
    pub(crate) fn expect(&self, status: i32) -> Result<()> {
        if self.status != Some(status) {
            bail!(
                "vmm-example ended with {:?}, not {status}: {}",
                self.status,
                self.text.trim()
            );
        }
        Ok(())
    }
}

/// A process that runs a guest. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Vmm(Child);

impl Vmm {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        Ok(Self(child.context("Run the VMM")?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn pid(&self) -> Result<Pid> {
        Pid::from_raw(self.id() as i32).context("A process has a number")
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("The VMM ended: {status}"),
            None => Ok(()),
        }
    }

    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = pidfd_open(self.pid()?, PidfdFlags::empty())?;
        let deadline = Instant::now() + limit;
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left))?;
        match self.0.try_wait()? {
            Some(status) => Ok(status),
            None => bail!("The VMM has not ended in {limit:?}"),
        }
    }
}

/// Kills all processes of the VMM, whoever started them.
pub(crate) fn kill_all() -> Result<()> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(number) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        // A process that is gone by now has no name.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if let (true, Some(pid)) = (name.starts_with("vmm-example"), Pid::from_raw(number)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}

/// How often each thread of a process has gone to sleep so far, by its name.
pub(crate) fn sleeps(pid: u32) -> Result<Vec<(String, u64)>> {
    let mut sleeps = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.map(str::trim).with_context(|| name.to_owned())
        };
        let count = field("voluntary_ctxt_switches:")?.parse()?;
        sleeps.push((field("Name:")?.to_owned(), count));
    }
    Ok(sleeps)
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Both fail only if it is already gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
