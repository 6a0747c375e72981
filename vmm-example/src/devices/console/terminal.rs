//! A terminal whose keys go to the guest as they are pressed.

use std::io;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

use super::guard::Guard;
use super::modes::TerminalModes;
use crate::socket::Ownership;

/// Puts standard input into raw mode and back again.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
    ownership: Ownership,
    /// Goes last: until the terminal is back.
    _guard: Option<Guard>,
}

impl RawTerminal {
    /// None if standard input is no terminal. Ctrl-C goes to the guest as well: the VMM is
    /// stopped through its API.
    pub(super) fn enter(ownership: &Ownership) -> Option<Self> {
        if !isatty(io::stdin()) {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let guard = Guard::set(TerminalModes::of(&before));
        let mut raw = before.clone();
        raw.make_raw();
        // Newlines of the VMM's own messages stay newlines.
        raw.output_modes = before.output_modes;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self {
            before,
            ownership: ownership.clone(),
            _guard: guard,
        })
    }

    /// A terminal that another process has in raw mode.
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
