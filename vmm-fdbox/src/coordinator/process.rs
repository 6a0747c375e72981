//! The process of a guest's VMM that was not started by this one.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::child::is_readable;
use crate::deadline::Deadline;
use crate::member::ChannelError;

/// How long a VMM that is exiting may take to end: the files of a killed process are closed before
/// its end becomes visible, and closing those of a VM takes a while.
const END_LIMIT: Duration = Duration::from_secs(2);

/// PF_EXITING in a task's flags: it executes no code of its own any more.
const EXITING: u64 = 4;

/// How long to wait for the end of a process whose connection closed: not at all if it is not
/// exiting.
pub(super) fn time_to_end(pid: u32) -> Duration {
    match is_exiting(pid) {
        Some(false) => Duration::ZERO,
        // Without /proc nobody knows.
        Some(true) | None => END_LIMIT,
    }
}

/// Whether the first thread of a process is exiting. It is when the whole process is and the last
/// of its threads has closed their files.
fn is_exiting(pid: u32) -> Option<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(CWD, format!("/proc/{pid}/stat"), flags, Mode::empty()).ok()?;
    let mut stat = [0; 1024];
    let read = rustix::io::read(file, &mut stat).ok()?;
    let stat = String::from_utf8_lossy(stat.get(..read)?);
    // The name is in brackets, and may contain brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let flags: u64 = fields.split_whitespace().nth(6)?.parse().ok()?;
    Some(flags & EXITING != 0)
}

/// What is known about the process; `Display` appends it to an error's text.
#[derive(Debug, Default)]
pub(super) struct Process {
    pid: Option<u32>,
    pidfd: Option<OwnedFd>,
}

impl Process {
    pub(super) fn new(pid: u32) -> Self {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Self {
            pid: Some(pid),
            pidfd: raw.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
        }
    }

    /// Uses the VMM's own claim if nothing better is known.
    pub(super) fn is_said_to_be(&mut self, pid: u32) {
        if self.pid.is_none() {
            *self = Self::new(pid);
        }
    }

    /// Whether the process has ended, after this error of its connection. `None` if that is
    /// unknown.
    pub(super) fn is_dead(&self, error: &ChannelError) -> Option<bool> {
        match (&self.pidfd, error) {
            (Some(pidfd), ChannelError::Gone) => {
                let limit = self.pid.map_or(END_LIMIT, time_to_end);
                Some(is_readable(pidfd, Deadline::within(limit)))
            }
            (Some(pidfd), _) => Some(is_readable(pidfd, Deadline::within(Duration::ZERO))),
            // It is alive but makes no progress.
            (None, ChannelError::Gone) => None,
            (None, _) => Some(false),
        }
    }

    /// Whether it ends within this time.
    pub(super) fn ends_within(&self, limit: Duration) -> bool {
        let ends = |pidfd| is_readable(pidfd, Deadline::within(limit));
        self.pidfd.as_ref().is_some_and(ends)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.map_or(Ok(()), |pid| write!(f, " (process {pid})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn one_that_lives_is_not_waited_for_and_one_that_exits_is() {
        let mut child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let process = Process::new(child.id());
        assert_eq!(time_to_end(child.id()), Duration::ZERO);
        assert_eq!(process.is_dead(&ChannelError::Gone), Some(false));
        child.kill().unwrap();
        // Nobody has reaped it: it is still visible.
        assert!(process.ends_within(Duration::from_secs(60)));
        assert_eq!(time_to_end(child.id()), END_LIMIT);
        assert_eq!(process.is_dead(&ChannelError::Gone), Some(true));
        child.wait().unwrap();
        assert_eq!(process.is_dead(&ChannelError::Gone), Some(true));
    }
}
