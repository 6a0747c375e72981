//! The machine's power button, through the kernel's count of presses.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

/// ACPI's fixed power button: the count, then whether it is enabled.
const PRESSES: &str = "/sys/firmware/acpi/interrupts/ff_pwr_btn";

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Button {
    ignored: AtomicBool,
}

impl Button {
    /// Whether the button was pressed and that is not to be ignored.
    pub(crate) fn is_pressed(&self) -> bool {
        let text = fs::read_to_string(PRESSES).unwrap_or_default();
        let count = text.split_whitespace().next();
        !self.ignored.load(Ordering::Relaxed) && count.is_some_and(|count| count != "0")
    }

    pub(crate) fn ignore(&self) {
        self.ignored.store(true, Ordering::Relaxed);
    }
}
