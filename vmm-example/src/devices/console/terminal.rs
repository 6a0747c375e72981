//! A terminal whose keys go to the guest as they are pressed.

use std::io;

use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios,
    isatty, tcgetattr, tcsetattr,
};
use serde::{Deserialize, Serialize};

use super::guard::Guard;
use crate::socket::Title;

/// Puts standard input into raw mode and back again.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
    title: Title,
    /// Goes last: until the terminal is back.
    _guard: Option<Guard>,
}

/// How a terminal was before, for the process that takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TerminalModes {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    min: u8,
    time: u8,
}

impl RawTerminal {
    /// None if standard input is no terminal. Ctrl-C goes to the guest as well: the VMM is
    /// stopped through its API.
    pub(super) fn enter(title: &Title) -> Option<Self> {
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
            title: title.clone(),
            _guard: guard,
        })
    }

    /// A terminal that another process has in raw mode.
    pub(super) fn adopt(modes: TerminalModes, title: &Title) -> Option<Self> {
        let mut before = tcgetattr(io::stdin()).ok()?;
        modes.apply(&mut before);
        let guard = Guard::set(modes);
        Some(Self {
            before,
            title: title.clone(),
            _guard: guard,
        })
    }

    pub(super) fn modes(&self) -> TerminalModes {
        TerminalModes::of(&self.before)
    }
}

impl TerminalModes {
    fn of(termios: &Termios) -> Self {
        Self {
            input: termios.input_modes.bits(),
            output: termios.output_modes.bits(),
            control: termios.control_modes.bits(),
            local: termios.local_modes.bits(),
            min: termios.special_codes[SpecialCodeIndex::VMIN],
            time: termios.special_codes[SpecialCodeIndex::VTIME],
        }
    }

    pub(super) fn apply(&self, termios: &mut Termios) {
        termios.input_modes = InputModes::from_bits_retain(self.input);
        termios.output_modes = OutputModes::from_bits_retain(self.output);
        termios.control_modes = ControlModes::from_bits_retain(self.control);
        termios.local_modes = LocalModes::from_bits_retain(self.local);
        termios.special_codes[SpecialCodeIndex::VMIN] = self.min;
        termios.special_codes[SpecialCodeIndex::VTIME] = self.time;
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if self.title.is_ours() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        }
    }
}
