//! A timer that sends this process a signal.

use std::io;
use std::ptr;
use std::time::Duration;

use rustix::io::Errno;

/// A POSIX timer that sends SIGKILL to the whole process.
///
/// # Invariants
/// `0` is a timer of this process, which only this value deletes.
#[derive(Debug)]
pub(crate) struct KillTimer(libc::timer_t);

// SAFETY: a timer belongs to the process, not to a thread; this process never dereferences its id
// as a pointer.
unsafe impl Send for KillTimer {}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl KillTimer {
    /// A timer that is not armed, on a clock that includes suspend.
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: sigevent consists of integers and a union of them: all zeros is a valid value.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both pointers refer to live values of the types that timer_create(2) reads and
        // writes.
        let status = unsafe { libc::timer_create(libc::CLOCK_BOOTTIME, &mut event, &mut timer) };
        // INVARIANT: timer_create succeeded and wrote the id of a new timer.
        match status {
            0 => Ok(Self(timer)),
            _ => Err(last_errno()),
        }
    }

    /// Arms it to expire once, `after` from now; zero disarms it.
    pub(crate) fn set(&self, after: Duration) -> Result<(), Errno> {
        let seconds = libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX);
        let none = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = libc::itimerspec {
            it_interval: none,
            it_value: libc::timespec {
                tv_sec: seconds,
                tv_nsec: libc::c_long::from(after.subsec_nanos()),
            },
        };
        // SAFETY: by the invariant the timer exists; `value` lives for the call, and no old value
        // is requested.
        let status = unsafe { libc::timer_settime(self.0, 0, &value, ptr::null_mut()) };
        match status {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }
}

impl Drop for KillTimer {
    fn drop(&mut self) {
        // SAFETY: by the invariant the timer exists, and nobody uses it after this.
        let _ = unsafe { libc::timer_delete(self.0) };
    }
}
