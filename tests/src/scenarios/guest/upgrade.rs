//! Replaces the VMM under a guest. The new VMM is not a child of this process.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::witness::command;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

use super::{END_LIMIT, Ended, Guest, VMM};

/// The resources of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holds {
    pub(crate) fds: usize,
    pub(crate) threads: usize,
    /// Its own memory, without the guest's.
    pub(crate) anonymous_kib: u64,
}

impl Holds {
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let of = |what: &str| format!("/proc/{pid}/{what}");
        let status = fs::read_to_string(of("status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(Self {
            fds: fs::read_dir(of("fd"))?.count(),
            threads: fs::read_dir(of("task"))?.count(),
            anonymous_kib: kib.context("/proc/PID/status has RssAnon")?.parse()?,
        })
    }
}

/// The process that runs a guest, whichever process started it. It ends when this is dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Runner(Pid);

impl Runner {
    pub(crate) fn pid(&self) -> i32 {
        self.0.as_raw_nonzero().get()
    }

    pub(crate) fn holds(&self) -> Result<Holds> {
        Holds::of(self.pid())
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.wait(Duration::ZERO).is_err()
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&self) -> Result<()> {
        kill_process(self.0, Signal::KILL)?;
        self.wait(END_LIMIT)
    }

    pub(super) fn wait(&self, limit: Duration) -> Result<()> {
        let Ok(ended) = pidfd_open(self.0, PidfdFlags::empty()) else {
            return Ok(());
        };
        let limit = Timespec::try_from(limit)?;
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&limit))? {
            0 => bail!("The VMM has not ended"),
            _ => Ok(()),
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // It fails if the process is already gone, as it should be.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

impl Guest {
    /// `vmm-example live-update --binary`, with additional arguments.
    pub(crate) fn upgrade(&self, binary: &str, arguments: &[&str]) -> Result<Ended> {
        let mut update = Command::new(VMM);
        update
            .arg("live-update")
            .arg("--api-socket")
            .arg(self.spec.api())
            .args(["--binary", binary])
            .arg("--report")
            .arg(self.spec.path(".report"))
            .args(arguments);
        Ended::of(&mut update)
    }

    /// The process that runs the guest, according to the API.
    pub(crate) fn runner(&self) -> Result<Runner> {
        let pid = Pid::from_raw(self.runner_pid()?);
        Ok(Runner(pid.context("A VMM is no process 0")?))
    }

    /// The same, which goes on.
    pub(crate) fn runner_pid(&self) -> Result<i32> {
        let status = self.spec.status()?;
        let pid = status["pid"].as_i64();
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        pid.context("The status has the VMM's process")
    }

    /// A connection to the API without a request so far.
    pub(crate) fn api_client(&self) -> Result<ApiClient> {
        ApiClient::connect(&self.spec.api())
    }

    /// The path of its API socket.
    pub(crate) fn api_path(&self) -> PathBuf {
        self.spec.api()
    }

    /// A program that answers `check-state` like the VMM and otherwise runs `script`.
    pub(crate) fn bad_binary(&self, script: &str) -> Result<String> {
        let checks = format!("[ \"$1\" = check-state ] && exec {VMM} \"$@\"");
        self.binary(&format!("#!/bin/sh\n{checks}\n{script}\n"), 0o755)
    }

    /// A file for the option `--binary`.
    pub(crate) fn binary(&self, content: &str, mode: u32) -> Result<String> {
        let path: PathBuf = self.spec.path(".binary");
        let _ = fs::remove_file(&path);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path.display().to_string())
    }

    /// Powers the guest off from inside, which ends its runner.
    pub(crate) fn power_off_under(mut self, runner: &Runner) -> Result<()> {
        self.console.say(command::POWER_OFF)?;
        runner.wait(END_LIMIT)?;
        ensure!(
            !self.spec.api().exists(),
            "The API socket is there after the guest's end"
        );
        Ok(())
    }
}

/// A client that stays connected.
#[derive(Debug)]
pub(crate) struct ApiClient(BufReader<UnixStream>);

impl ApiClient {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).context("Connect to the API")?;
        stream.set_read_timeout(Some(END_LIMIT))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) fn status(&mut self) -> Result<Value> {
        self.0.get_mut().write_all(b"{\"verb\":\"status\"}\n")?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("The answer {line:?}"))
    }
}
