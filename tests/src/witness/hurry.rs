//! Whoever waits for an answer goes first.

use rustix::process::{getpriority_process, setpriority_process};

/// Before those who work with disk and network, after the watch of the clocks.
const FIRST: i32 = -15;

/// Gives this thread most of its CPU, until it is dropped. After an update each page that is touched for the
/// first time is an exit to the host: beside a guest at work a check of all of them would take a minute of
/// an emulated CPU.
#[derive(Debug)]
pub(crate) struct Hurry {
    before: Option<i32>,
}

impl Hurry {
    /// Who may not hurry takes longer, and that is all.
    pub(crate) fn new() -> Self {
        let before = getpriority_process(None).ok();
        let hurries = setpriority_process(None, FIRST).is_ok();
        Self {
            before: before.filter(|_| hurries),
        }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // It was this priority a moment ago, and a lower one is always granted.
            let _ = setpriority_process(None, before);
        }
    }
}
