//! Waiting for another kernel that has, or is to have, a box.

use std::thread;
use std::time::{Duration, Instant};

use super::boxes::Boxes;
use crate::deadline::Deadline;
use crate::error::BoxError;
use crate::lease::outlast;
use crate::lending::{LendAct, Lending};
use crate::name::BoxName;

/// How often to look while a guest stands still. There are no wakeups between kernels.
pub(super) const QUICKLY: Duration = Duration::from_micros(200);
/// The same while it runs.
pub(super) const CALMLY: Duration = Duration::from_millis(5);

/// Since when the boat has been lost, whenever somebody looked. Guests that come home share it: none
/// waits for what another one has waited for.
#[derive(Debug, Default)]
pub(super) struct Silence(Option<Instant>);

impl Silence {
    /// Whether it was lost for so long that it is not only slow.
    pub(super) fn lasts(&mut self, is_lost: bool, limit: Duration) -> bool {
        if !is_lost {
            self.0 = None;
            return false;
        }
        self.0.get_or_insert_with(Instant::now).elapsed() >= limit
    }
}

/// Waits until the lease of a box is as `until` wants it; `None` if the deadline comes first.
pub(super) fn wait_until<B: Boxes>(
    boxes: &B,
    name: &BoxName,
    interval: Duration,
    deadline: Deadline,
    mut until: impl FnMut(&Lending) -> bool,
) -> Result<Option<Lending>, BoxError> {
    outlast(deadline.left());
    loop {
        let lending = boxes.lend(name, LendAct::Look)?;
        if until(&lending) {
            return Ok(Some(lending));
        }
        if deadline.is_over() {
            return Ok(None);
        }
        thread::sleep(interval);
    }
}
