//! A VMM started by this process.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::deadline::Deadline;
use crate::lease::outlast;

/// How long a killed process may take to be reaped. If the kernel does not release it, for example
/// while it waits for a dead NFS server, it no longer runs code of its own.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Why a VMM was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// Cannot create a socket for talking to it.
    #[error("Cannot make a socket for the new VMM")]
    Socket(#[source] io::Error),
    /// The program cannot be started.
    #[error("Cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// It could not be watched, and was killed.
    #[error("Cannot watch the new VMM: {0}")]
    Watch(Errno),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// It exited.
    Exited(i32),
    /// A signal ended it.
    Killed(i32),
    /// It was killed, but the kernel has not released it yet. It no longer runs code of its own.
    Dying,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "it exited with status {code}"),
            Self::Killed(signal) => write!(f, "it was killed by signal {signal}"),
            Self::Dying => f.write_str("it was killed, and hangs in the kernel"),
        }
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Exited(code),
            None => Self::Killed(status.signal().unwrap_or_default()),
        }
    }
}

/// A process with a socket to this one as its standard input. It is killed on drop, unless it was
/// [let go](Self::let_go).
#[derive(Debug)]
pub struct Child {
    /// `None` if it was let go or has been reaped.
    process: Option<std::process::Child>,
    pidfd: OwnedFd,
    id: u32,
}

impl Child {
    /// Starts a command, and returns it with this process's end of the socket.
    ///
    /// # Errors
    /// [`ChildError`].
    pub fn spawn(mut command: Command) -> Result<(Self, UnixStream), ChildError> {
        let (ours, theirs) = UnixStream::pair().map_err(ChildError::Socket)?;
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let spawned = command.spawn().map_err(|source| ChildError::Spawn {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        });
        // The command holds the other end: drop it, so that the child's death closes the socket.
        drop(command);
        let mut process = spawned?;
        let id = process.id();
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        // Nobody has waited for it yet, so the number cannot have been reused.
        let pidfd = pid.ok_or(Errno::SRCH);
        match pidfd.and_then(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Ok(pidfd) => Ok((
                Self {
                    process: Some(process),
                    pidfd,
                    id,
                },
                ours,
            )),
            Err(errno) => {
                let _ = process.kill();
                reap_later(process);
                Err(ChildError::Watch(errno))
            }
        }
    }

    /// Its process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits for its end, up to the deadline. `None` if it is alive or was let go.
    pub fn wait(&mut self, deadline: Deadline) -> Option<Ended> {
        if !is_readable(&self.pidfd, deadline) {
            return None;
        }
        let status = self.process.as_mut()?.try_wait();
        status.ok().flatten().map(Ended::from)
    }

    /// Whether it is alive.
    pub fn is_alive(&self) -> bool {
        !is_readable(&self.pidfd, Deadline::within(Duration::ZERO))
    }

    /// Kills it and says how it ended: as killed only if it had not already ended by itself.
    pub fn kill(&mut self) -> Ended {
        let Some(process) = &mut self.process else {
            return Ended::Dying;
        };
        // This can only fail if it has already ended.
        let _ = process.kill();
        let ended = self.wait(Deadline::within(KILL_LIMIT));
        if let Some(process) = self.process.take()
            && ended.is_none()
        {
            reap_later(process);
        }
        ended.unwrap_or(Ended::Dying)
    }

    /// Lets it live on; its end is then a matter for whichever process becomes its parent.
    pub fn let_go(mut self) {
        if let Some(process) = self.process.take() {
            reap_later(process);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

/// Leaves waiting for its end to a thread, which ends with this process.
fn reap_later(mut process: std::process::Child) {
    let reap = move || process.wait();
    // Without a thread it stays a zombie until this process ends.
    let _ = thread::Builder::new().name("reap".into()).spawn(reap);
}

/// Whether the process behind a pidfd ends before the deadline.
pub(super) fn is_readable(fd: impl AsFd, deadline: Deadline) -> bool {
    outlast(deadline.left());
    loop {
        let left = deadline.left();
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) if !left.is_zero() => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdout(Stdio::null());
        command
    }

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn it_tells_how_it_ended() {
        let (mut child, _socket) = Child::spawn(sh("exit 3")).unwrap();
        assert_eq!(child.wait(Deadline::within(SOON)), Some(Ended::Exited(3)));
        let (mut child, _socket) = Child::spawn(sh("kill -9 $$")).unwrap();
        assert_eq!(child.wait(Deadline::within(SOON)), Some(Ended::Killed(9)));
    }

    #[test]
    fn one_that_hangs_is_killed_and_one_that_closed_its_socket_too() {
        // A process that only closed its end of the socket must not be waited for without a limit.
        for script in ["exec sleep 100", "exec sleep 100 <&-", "kill -STOP $$"] {
            let (mut child, mut socket) = Child::spawn(sh(script)).unwrap();
            if script.ends_with("<&-") {
                assert_eq!(socket.read(&mut [0]).unwrap(), 0);
            }
            assert_eq!(child.wait(Deadline::within(Duration::ZERO)), None);
            assert!(child.is_alive());
            assert_eq!(child.kill(), Ended::Killed(9), "{script}");
            assert!(!child.is_alive());
        }
    }

    #[test]
    fn dropped_it_is_killed_and_let_go_it_lives() {
        let (child, mut socket) = Child::spawn(sh("exec sleep 100")).unwrap();
        drop(child);
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
        let (child, socket) = Child::spawn(sh("read line; echo heard >&0")).unwrap();
        child.let_go();
        let mut heard = String::new();
        io::Write::write_all(&mut &socket, b"go\n").unwrap();
        (&socket).read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "heard\n");
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let error = Child::spawn(Command::new("/nonexistent/vmm")).unwrap_err();
        assert_eq!(error.to_string(), "Cannot start /nonexistent/vmm");
    }
}
