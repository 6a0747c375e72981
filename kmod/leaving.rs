// SPDX-License-Identifier: GPL-2.0

//! Serialisation with the reboot notifier.
//!
//! What is handed over must not change once the reboot has begun, because devices are shut down
//! after that. For the same reason no device may be adopted from the last kernel any more: it would
//! continue DMA after its shutdown. So SEAL, UNSEAL and the restore of a descriptor are
//! [`Change`]s. The reboot notifier sets a flag, after which no change can begin. Running changes
//! check the flag and give up, and the notifier waits for them, with a limit.

use crate::wait;
use kernel::{
    prelude::*,
    sync::atomic::{
        ordering::{
            Acquire,
            Full, //
        },
        Atomic, //
    },
    time::{
        Instant,
        Monotonic, //
    },
};

/// How long the reboot waits for changes to end. A SEAL that gives up releases devices first, so
/// only memory can be left after this time, and the kernel that owns it is about to end.
pub(crate) const LIMIT_MS: u32 = 2000;

/// Whether the reboot has begun; never reset.
static LEAVING: Atomic<u32> = Atomic::new(0);
/// Number of running changes.
static CHANGES: wait::Count = wait::Count::new();

/// A running change of what is handed over, or of what came from the last kernel.
pub(crate) struct Change(());

impl Change {
    /// Fails with `EAGAIN` once the reboot has begun.
    pub(crate) fn begin() -> Result<Change> {
        CHANGES.enter();
        let change = Change(());
        // Both `enter()` and the store of the flag are fully ordered: either this task sees the flag, or
        // the notifier sees this change.
        match begun() {
            false => Ok(change),
            true => Err(EAGAIN),
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        CHANGES.leave();
    }
}

fn begun() -> bool {
    LEAVING.load(Acquire) != 0
}

/// To be called from long loops: fails with `EAGAIN` once the reboot has begun, with `EINTR` if the
/// task was killed.
pub(crate) fn go_on() -> Result {
    if begun() {
        return Err(EAGAIN);
    }
    wait::not_killed()
}

/// Called by the reboot notifier: lets no further change begin and waits for those that are
/// running, up to the limit. Returns whether all have ended, and the time in milliseconds.
pub(crate) fn begin() -> (bool, i64) {
    let started = Instant::<Monotonic>::now();
    LEAVING.xchg(1, Full);
    let ended = CHANGES.wait_for_none(LIMIT_MS);
    (ended, started.elapsed().as_millis())
}
