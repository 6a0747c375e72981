//! A limit on how long guests may be paused for a process.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::sys::KillTimer;

/// Added to the limit of a wait, for overruns and for what follows the wait.
const MARGIN: Duration = Duration::from_secs(10);

/// The timer of this process, while it has a lease.
struct Running {
    timer: KillTimer,
    /// When it expires; `None`: later than the clock can represent.
    until: Option<Instant>,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

fn running() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    fn set(&mut self, limit: Duration) -> Result<(), Errno> {
        // Zero would stop the timer.
        self.timer.set(limit.max(Duration::from_nanos(1)))?;
        self.until = Instant::now().checked_add(limit);
        Ok(())
    }
}

/// Extends the lease of this process, if it has one, to outlast a wait of at most `limit`.
pub(crate) fn outlast(limit: Duration) {
    let limit = limit.saturating_add(MARGIN);
    let until = Instant::now().checked_add(limit);
    if let Some(running) = &mut *running()
        && running
            .until
            .is_some_and(|ends| until.is_none_or(|until| ends < until))
    {
        // This can only fail for an invalid time.
        let _ = running.set(limit);
    }
}

/// A time limit on a coordinator: if it is not renewed or dropped in time, the kernel kills the
/// process, even if that is stopped by SIGSTOP, hangs in a killable system call, or the host has
/// been suspended.
///
/// While guests are paused for a coordinator, none of them may decide on its own to continue,
/// because the jump may come at any moment. So a coordinator that hangs must neither leave them
/// paused forever nor wake up later and jump without them: it dies, its sockets close, and each
/// guest is rolled back. Only for a process that has nothing else to do.
///
/// While this process waits for a VMM, the lease is extended to ten seconds beyond the limit of
/// that wait, so that a VMM that is late is reported. Dropping the lease ends it.
#[derive(Debug)]
pub struct Lease(());

impl Lease {
    /// Kills this process after `limit`, unless the lease is [renewed](Self::renew) or dropped
    /// before.
    ///
    /// # Errors
    /// EAGAIN or ENOMEM if there is no timer, so that nothing would kill it. EBUSY if the process
    /// already has a lease.
    pub fn begin(limit: Duration) -> Result<Self, Errno> {
        let mut place = running();
        if place.is_some() {
            return Err(Errno::BUSY);
        }
        let mut timer = Running {
            timer: KillTimer::new()?,
            until: None,
        };
        timer.set(limit)?;
        *place = Some(timer);
        Ok(Self(()))
    }

    /// Restarts the lease with `limit` from now.
    ///
    /// # Errors
    /// None known: EINVAL for an invalid time.
    pub fn renew(&self, limit: Duration) -> Result<(), Errno> {
        running()
            .as_mut()
            .map_or(Ok(()), |running| running.set(limit))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *running() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);
    const CHILD: &str = "FDBOX_TEST_LEASE";

    /// Runs in a child of the test below.
    #[test]
    fn child() {
        match std::env::var(CHILD).as_deref() {
            Ok("hangs") => {
                let _lease = Lease::begin(LIMIT).unwrap();
                let this = rustix::process::getpid();
                rustix::process::kill_process(this, rustix::process::Signal::STOP).unwrap();
                // Another thread may get the signal first.
                loop {
                    std::thread::park();
                }
            }
            Ok("gets on") => {
                let lease = Lease::begin(Duration::from_millis(500)).unwrap();
                lease.renew(Duration::from_secs(3600)).unwrap();
                assert_eq!(Lease::begin(LIMIT).unwrap_err(), Errno::BUSY);
                drop(lease);
                drop(Lease::begin(Duration::from_millis(500)).unwrap());
                // The first limit would have expired by now.
                std::thread::sleep(Duration::from_millis(700));
            }
            Ok("waits") => {
                let _lease = Lease::begin(LIMIT).unwrap();
                outlast(Duration::from_secs(60));
                // Of two concurrent waits, the shorter one must not shorten the other.
                outlast(Duration::ZERO);
                let left = running().as_ref().unwrap().until.unwrap() - Instant::now();
                assert!(left > Duration::from_secs(30), "{left:?}");
                std::thread::sleep(2 * LIMIT);
            }
            _ => {}
        }
    }

    #[test]
    fn a_process_that_is_stopped_is_killed_and_one_that_gets_on_is_not() {
        let run = |what: &str| {
            let mut test = Command::new(std::env::current_exe().unwrap());
            test.args(["--exact", "lease::tests::child", "--test-threads=1"]);
            test.env(CHILD, what).output().unwrap().status
        };
        assert_eq!(run("hangs").signal(), Some(9));
        assert!(run("gets on").success());
        assert!(run("waits").success());
    }
}
