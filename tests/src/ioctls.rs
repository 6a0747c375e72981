//! What `cargo lab ioctls` and the scenario that it runs tell each other.

use serde::{Deserialize, Serialize};

/// The environment variables with the number of calls, and with where the random choices begin.
pub const CALLS: &str = "LAB_IOCTLS_CALLS";
pub const SEED: &str = "LAB_IOCTLS_SEED";
/// The name under which [`Counts`] are sent, again and again.
pub const COUNTS: &str = "ioctls";

/// The calls between two of them.
pub const CALLS_PER_VALUE: u64 = 5000;

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// ioctls, of processes that were killed up to their last report only.
    pub calls: u64,
    /// Those of them that succeeded.
    pub succeeded: u64,
    /// Those in which an allocation of the kernel failed.
    pub failing: u64,
    pub processes: u64,
    pub killed: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.succeeded += other.succeeded;
        self.failing += other.failing;
        self.processes += other.processes;
        self.killed += other.killed;
    }
}
