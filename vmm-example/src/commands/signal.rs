//! Signals to processes by their numbers.

use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal to a process, which may be gone.
pub(in crate::commands) fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = pid.map(|pid| kill_process(pid, signal));
}
