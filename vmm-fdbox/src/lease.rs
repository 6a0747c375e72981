//! For how long guests may stand still for a process.

use std::time::Duration;

use rustix::io::Errno;

use crate::sys::KillTimer;

/// The time within which this process gets on, or else the kernel kills it: also when it is stopped by SIGSTOP, hangs
/// in a system call that can be killed, or the host sleeps meanwhile.
///
/// While guests stand still for a coordinator, none of them may decide by itself to continue, since the jump may come at any
/// moment. So a coordinator that hangs must neither leave them standing for ever nor wake up later
/// and jump without them: it dies, its sockets close, and each guest is rolled back. Only for a process that
/// has nothing else to do.
///
/// Dropping it ends it.
#[derive(Debug)]
pub struct Lease(KillTimer);

impl Lease {
    /// Kills this process `limit` from now, unless it is [renewed](Self::renew) or dropped before.
    ///
    /// # Errors
    /// EAGAIN, ENOMEM: there is no timer, and nothing kills it.
    pub fn begin(limit: Duration) -> Result<Self, Errno> {
        let lease = Self(KillTimer::new()?);
        lease.renew(limit)?;
        Ok(lease)
    }

    /// From now on it is `limit` that is left.
    ///
    /// # Errors
    /// None that is known: EINVAL of a time that is none.
    pub fn renew(&self, limit: Duration) -> Result<(), Errno> {
        // None at all would stop the timer.
        self.0.set(limit.max(Duration::from_nanos(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "FDBOX_TEST_LEASE";

    /// Runs in a child of the test below.
    #[test]
    fn child() {
        match std::env::var(CHILD).as_deref() {
            Ok("hangs") => {
                let _lease = Lease::begin(Duration::from_millis(50)).unwrap();
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
                drop(lease);
                drop(Lease::begin(Duration::from_millis(500)).unwrap());
                // What was set first would be over by now.
                std::thread::sleep(Duration::from_millis(700));
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
    }
}
