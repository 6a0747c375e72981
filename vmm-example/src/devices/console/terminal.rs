//! A terminal whose keys go to the guest as they are pressed.

use std::io;

use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios,
    isatty, tcgetattr, tcsetattr,
};
use serde::{Deserialize, Serialize};

use crate::socket::Title;

/// Puts standard input into raw mode and back again.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
    title: Title,
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
        let mut raw = before.clone();
        raw.make_raw();
        // Newlines of the VMM's own messages stay newlines.
        raw.output_modes = before.output_modes;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self {
            before,
            title: title.clone(),
        })
    }

    /// A terminal that another process has in raw mode.
    pub(super) fn adopt(modes: TerminalModes, title: &Title) -> Option<Self> {
        let mut before = tcgetattr(io::stdin()).ok()?;
        before.input_modes = InputModes::from_bits_retain(modes.input);
        before.output_modes = OutputModes::from_bits_retain(modes.output);
        before.control_modes = ControlModes::from_bits_retain(modes.control);
        before.local_modes = LocalModes::from_bits_retain(modes.local);
        before.special_codes[SpecialCodeIndex::VMIN] = modes.min;
        before.special_codes[SpecialCodeIndex::VTIME] = modes.time;
        Some(Self {
            before,
            title: title.clone(),
        })
    }

    pub(super) fn modes(&self) -> TerminalModes {
        TerminalModes {
            input: self.before.input_modes.bits(),
            output: self.before.output_modes.bits(),
            control: self.before.control_modes.bits(),
            local: self.before.local_modes.bits(),
            min: self.before.special_codes[SpecialCodeIndex::VMIN],
            time: self.before.special_codes[SpecialCodeIndex::VTIME],
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if self.title.is_ours() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        }
    }
}
