//! Who puts a terminal back when its VMM cannot: a process that only waits for that.
//!
//! A VMM that is killed, or aborts, leaves the terminal as it is. Its guard reads a pipe that the VMM
//! holds, and finds it closed then. A VMM that ends in order, or has handed the terminal on, says so
//! first.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use vmm_sys_util::signal::block_signal;

use super::modes::TerminalModes;

/// The command that is a guard.
pub(crate) const COMMAND: &str = "guard-terminal";

/// What says that nothing is left to do.
const DISMISSED: &[u8] = b".";

/// A guard; it is dismissed when this is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    pipe: Option<ChildStdin>,
    /// It ends by itself, with the pipe.
    _process: Child,
}

impl Guard {
    /// Sets a guard to the terminal that is standard input. None if that cannot be: a VMM without
    /// a guard is better than none.
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
        // One that is gone already has nothing to do either.
        let _ = self.pipe.take().map(|mut pipe| pipe.write_all(DISMISSED));
    }
}

/// Is a guard: standard output is the terminal, standard input what the VMM holds.
pub(crate) fn guard(modes: &str) -> anyhow::Result<()> {
    let modes: TerminalModes = serde_json::from_str(modes)?;
    // What ends all processes of a terminal ends this one last; and it is in the background.
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
    let mut said = Vec::new();
    io::stdin().read_to_end(&mut said)?;
    if said.is_empty() {
        let mut termios = tcgetattr(io::stdout())?;
        modes.apply(&mut termios);
        tcsetattr(io::stdout(), OptionalActions::Now, &termios)?;
    }
    Ok(())
}
