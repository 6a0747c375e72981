//! For how long guests may stand still for a process.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::sys::KillTimer;

/// What a wait with a limit of its own may take beyond that, and what comes after it.
const MARGIN: Duration = Duration::from_secs(10);

/// The timer of this process, while it has a lease.
struct Running {
    timer: KillTimer,
    /// When it goes off; `None`: later than the clock can tell.
    until: Option<Instant>,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

fn running() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    fn set(&mut self, limit: Duration) -> Result<(), Errno> {
        // None at all would stop the timer.
        self.timer.set(limit.max(Duration::from_nanos(1)))?;
        self.until = Instant::now().checked_add(limit);
        Ok(())
    }
}

/// This process is about to wait for somebody, for `limit` at most: its lease, if it has one, does not end before.
pub(crate) fn outlast(limit: Duration) {
    let limit = limit.saturating_add(MARGIN);
    let until = Instant::now().checked_add(limit);
    if let Some(running) = &mut *running()
        && running
            .until
            .is_some_and(|ends| until.is_none_or(|until| ends < until))
    {
        // It fails of a time that is none, which this is not.
        let _ = running.set(limit);
    }
}

/// The time within which this process gets on, or else the kernel kills it: also when it is stopped by SIGSTOP, hangs
/// in a system call that can be killed, or the host sleeps meanwhile.
///
/// While guests stand still for a coordinator, none of them may decide by itself to continue, since the jump may come at any
/// moment. So a coordinator that hangs must neither leave them standing for ever nor wake up later
/// and jump without them: it dies, its sockets close, and each guest is rolled back. Only for a process that
/// has nothing else to do.
///
/// A wait of this process for a VMM has a limit of its own, and the lease does not end before that and ten seconds
/// more: a VMM that is late is reported. Dropping it ends it.
#[derive(Debug)]
pub struct Lease(());

impl Lease {
    /// Kills this process `limit` from now, unless it is [renewed](Self::renew) or dropped before.
    ///
    /// # Errors
    /// EAGAIN, ENOMEM: there is no timer, and nothing kills it. EBUSY: it has a lease.
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

    /// From now on it is `limit` that is left.
    ///
    /// # Errors
    /// None that is known: EINVAL of a time that is none.
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
                // Another thread may get it first.
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
                // What was set first would be over by now.
                std::thread::sleep(Duration::from_millis(700));
            }
            Ok("waits") => {
                let _lease = Lease::begin(LIMIT).unwrap();
                outlast(Duration::from_secs(60));
                // Of two that wait, the one with less time takes none of the other's.
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
