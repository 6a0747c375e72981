//! Restores a terminal if its VMM cannot: a process that only waits for that case.
//!
//! A VMM that is killed, or aborts, leaves the terminal in raw mode. Its guard reads from a pipe
//! that the VMM holds, and then finds it closed. A VMM that ends normally, or has handed the
//! terminal over, dismisses its guard first.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use vmm_sys_util::signal::block_signal;

use super::modes::TerminalModes;

/// The command that runs a guard.
pub(crate) const COMMAND: &str = "guard-terminal";

/// The message that dismisses a guard.
const DISMISSED: &[u8] = b".";

/// A guard; it is dismissed on drop.
#[derive(Debug)]
pub(super) struct Guard {
    pipe: Option<ChildStdin>,
    /// It exits by itself when the pipe is closed.
    _process: Child,
}

impl Guard {
    /// Starts a guard for the terminal on standard output. `None` if that fails: a VMM without a
    /// guard is better than none.
    pub(super) fn set(modes: TerminalModes) -> Option<Self> {
        let terminal = rustix::io::dup(io::stdin()).ok()?;
        let mut process = Command::new("/proc/self/exe")
            .arg(COMMAND)
            .arg(serde_json::to_string(&modes).ok()?)
            .stdin(Stdio::piped())
            .stdout(terminal)
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self {
            pipe: process.stdin.take(),
            _process: process,
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A guard that has already exited needs no message.
        let _ = self.pipe.take().map(|mut pipe| pipe.write_all(DISMISSED));
    }
}

/// Runs as a guard: standard output is the terminal, standard input is the pipe held by the VMM.
pub(crate) fn guard(modes: &str) -> anyhow::Result<()> {
    let modes: TerminalModes = serde_json::from_str(modes)?;
    // Survives what ends all processes of a terminal; and it is in the background.
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGTSTP,
        libc::SIGTTOU,
    ] {
        block_signal(signal).map_err(|error| anyhow::Error::msg(format!("{error:?}")))?;
    }
    let mut end = Vec::new();
    io::stdin().read_to_end(&mut end)?;
    if end.is_empty() {
        let mut termios = tcgetattr(io::stdout())?;
        modes.apply(&mut termios);
        tcsetattr(io::stdout(), OptionalActions::Now, &termios)?;
    }
    Ok(())
}
