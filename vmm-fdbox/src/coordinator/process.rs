//! The process of a guest's VMM that was not started by this one.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::child::is_readable;
use crate::deadline::Deadline;
use crate::member::ChannelError;

/// How long a VMM that closed its connection may take to end: the files of a killed process are
/// closed before its end becomes visible, and closing those of a VM takes a while.
const END_LIMIT: Duration = Duration::from_secs(2);

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
                Some(is_readable(pidfd, Deadline::within(END_LIMIT)))
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
