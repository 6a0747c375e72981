//! A terminal in raw mode, whose keys go to the guest as they are pressed.

use std::io;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

use super::guard::Guard;
use super::modes::TerminalModes;
use crate::socket::Ownership;

/// Puts standard input into raw mode and restores it.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
    ownership: Ownership,
    /// Dropped last: it must stay until the terminal is restored.
    _guard: Option<Guard>,
}

impl RawTerminal {
    /// `None` if standard input is not a terminal. Ctrl-C goes to the guest as well: the VMM is
    /// stopped through its API.
    pub(super) fn enter(ownership: &Ownership) -> Option<Self> {
        if !isatty(io::stdin()) {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let guard = Guard::set(TerminalModes::of(&before));
        let mut raw = before.clone();
        raw.make_raw();
        // Newlines in the VMM's own messages still work.
        raw.output_modes = before.output_modes;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self {
            before,
            ownership: ownership.clone(),
            _guard: guard,
        })
    }

    /// Takes over a terminal that another process has put into raw mode.
    pub(super) fn adopt(modes: TerminalModes, ownership: &Ownership) -> Option<Self> {
        let mut before = tcgetattr(io::stdin()).ok()?;
        modes.apply(&mut before);
        let guard = Guard::set(modes);
        Some(Self {
            before,
            ownership: ownership.clone(),
            _guard: guard,
        })
    }

    pub(super) fn modes(&self) -> TerminalModes {
        TerminalModes::of(&self.before)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if self.ownership.is_ours() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        }
    }
}
