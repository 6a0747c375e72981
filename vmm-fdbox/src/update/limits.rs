//! Time limits for the steps of an update.

use std::time::Duration;

/// How long each step may take. A step that returns later has failed, and is undone. A step that
/// hangs is not ended, because it runs in the VMM itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Looking for blockers. Default: 1 minute.
    pub preflight: Duration,
    /// Everything that is done while the guest runs: loading the kernel, filling the box and
    /// sealing it, which walks the guest's memory. Default: 15 minutes.
    pub prepare: Duration,
    /// Stopping the guest. Default: 30 s.
    pub pause: Duration,
    /// Writing the state. Default: 30 s.
    pub save: Duration,
    /// The jump, if the host waits for somebody during it. Default: 30 s.
    pub jump: Duration,
    /// How long a coordinator waits for a guest to be rolled back. Default: 2 minutes.
    pub roll_back: Duration,
}

impl Limits {
    /// How long guests may be paused for a coordinator, up to its jump.
    #[must_use]
    pub fn standing(&self) -> Duration {
        let limits = [self.pause, self.save, self.jump];
        let sum = |sum: Duration, limit| sum.saturating_add(limit);
        limits.into_iter().fold(Duration::ZERO, sum)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            preflight: Duration::from_secs(60),
            prepare: Duration::from_secs(15 * 60),
            pause: Duration::from_secs(30),
            save: Duration::from_secs(30),
            jump: Duration::from_secs(30),
            roll_back: Duration::from_secs(120),
        }
    }
}
