//! A higher priority for a thread that prepares an answer.

use rustix::process::{getpriority_process, setpriority_process};

/// Above the threads that use disk and network, below those that watch the clocks.
const FIRST: i32 = -15;

/// Gives this thread most of its CPU until it is dropped. After an update the first access to each
/// page is an exit to the host: next to a busy guest a check of all pages would take a minute of an
/// emulated CPU.
#[derive(Debug)]
pub(crate) struct Hurry {
    before: Option<i32>,
}

impl Hurry {
    /// Without the permission to raise its priority the thread only takes longer.
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
            // The thread had this priority before, and lowering the priority is always allowed.
            let _ = setpriority_process(None, before);
        }
    }
}
