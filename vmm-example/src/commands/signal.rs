//! Signals to processes, by process ID.

use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal to a process, which may no longer exist.
pub(in crate::commands) fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = pid.map(|pid| kill_process(pid, signal));
}
