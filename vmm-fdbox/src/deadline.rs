//! Deadlines.

use std::time::{Duration, Instant};

/// The end of the time that a step may take.
///
/// ```
/// use std::time::Duration;
/// use vmm_fdbox::Deadline;
///
/// let deadline = Deadline::within(Duration::from_secs(3600));
/// assert!(!deadline.is_over() && deadline.left() > Duration::from_secs(3000));
/// assert!(Deadline::within(Duration::ZERO).is_over());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    limit: Duration,
    /// `None`: later than the clock can represent.
    ends: Option<Instant>,
}

impl Deadline {
    /// `limit` from now.
    #[must_use]
    pub fn within(limit: Duration) -> Self {
        Self {
            limit,
            ends: Instant::now().checked_add(limit),
        }
    }

    /// The original limit.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The time left.
    #[must_use]
    pub fn left(&self) -> Duration {
        let left = |ends: Instant| ends.saturating_duration_since(Instant::now());
        self.ends.map_or(Duration::MAX, left)
    }

    /// Whether no time is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}
