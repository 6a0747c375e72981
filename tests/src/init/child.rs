//! Runs the plan's commands: each line that they write becomes an event.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use fdbox_lab::event::{Event, EventPort, Stream};
use fdbox_lab::plan;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, wait};

/// Runs `command` with /bin/sh and returns its exit status like a shell. Processes that it leaves
/// behind may continue, but their output is not read.
pub(crate) fn run(command: &str, next_cmdline: Option<&str>, port: &EventPort) -> Result<i32> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env("PATH", "/bin")
        .env("HOME", "/root")
        .envs(next_cmdline.map(|cmdline| (plan::NEXT_CMDLINE, cmdline)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("Run /bin/sh")?;
    let stdout = child.stdout.take().map(OwnedFd::from);
    let stderr = child.stderr.take().map(OwnedFd::from);
    let mut pipes = [
        Lines::new(stdout, Stream::Stdout)?,
        Lines::new(stderr, Stream::Stderr)?,
    ];
    let child = pid(&child)?;
    let ended = pidfd_open(child, PidfdFlags::empty()).context("Watch the command")?;
    let reaper = thread::spawn(move || reap_until(child));
    loop {
        let mut watched = vec![PollFd::new(&ended, PollFlags::IN)];
        for pipe in pipes.iter().filter_map(|lines| lines.pipe.as_ref()) {
            watched.push(PollFd::new(pipe, PollFlags::IN));
        }
        poll(&mut watched, None).context("Wait for the command")?;
        let over = !watched[0].revents().is_empty();
        for pipe in &mut pipes {
            pipe.forward(port)?;
        }
        if over {
            break;
        }
    }
    for pipe in &mut pipes {
        pipe.flush(port)?;
    }
    let status = reaper.join().ok().context("The thread that reaps")??;
    Ok(status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or_default()))
}

/// Reaps processes until `last` has ended. As PID 1 this process is the parent of all whose own
/// parent is gone, such as a VMM that was started by another VMM.
fn reap_until(last: Pid) -> Result<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == last => return Ok(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("Wait for the end of a process"),
        }
    }
}

/// A shell on the console, with job control.
pub(crate) fn shell() -> Result<()> {
    let status = Command::new("/bin/setsid")
        .args(["cttyhack", "/bin/sh", "-l"])
        .env("PATH", "/bin")
        .env("HOME", "/root")
        .env("PS1", "host# ")
        .status()
        .context("Run a shell")?;
    if !status.success() {
        eprintln!("lab-init: the shell ended: {status}");
    }
    Ok(())
}

fn pid(child: &Child) -> Result<Pid> {
    match Pid::from_raw(child.id() as i32) {
        Some(pid) => Ok(pid),
        None => bail!("A child without a process id"),
    }
}

/// One output pipe of a command, split into lines.
struct Lines {
    pipe: Option<File>,
    stream: Stream,
    unfinished: Vec<u8>,
}

impl Lines {
    fn new(pipe: Option<OwnedFd>, stream: Stream) -> Result<Self> {
        if let Some(pipe) = &pipe {
            rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK)?;
        }
        Ok(Self {
            pipe: pipe.map(File::from),
            stream,
            unfinished: Vec::new(),
        })
    }

    /// Forwards the available output and does not wait for more.
    fn forward(&mut self, port: &EventPort) -> Result<()> {
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.unfinished.extend_from_slice(&buffer[..count]);
                    while let Some(end) = self.unfinished.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = self.unfinished.drain(..=end).collect();
                        self.send(port, &line[..end])?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("Read what the command writes"),
            }
        }
        Ok(())
    }

    /// Forwards a last line without a newline.
    fn flush(&mut self, port: &EventPort) -> Result<()> {
        let rest = std::mem::take(&mut self.unfinished);
        if rest.is_empty() {
            Ok(())
        } else {
            self.send(port, &rest)
        }
    }

    fn send(&self, port: &EventPort, line: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(line).into_owned();
        Ok(port.send(&Event::Output {
            stream: self.stream,
            text,
        })?)
    }
}
