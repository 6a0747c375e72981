// SPDX-License-Identifier: GPL-2.0

//! The host on its way into the next kernel.
//!
//! What is handed over must not change once the reboot has begun: devices are shut down then, and
//! the next kernel gets what was sealed before. Nor may a device be taken over from the last kernel,
//! which would go on with DMA after its shutdown. So SEAL, UNSEAL and the restore of a descriptor are
//! [`Change`]s. None begins after the reboot notifier has set the flag, those that run look at the
//! flag as they go and give up, and the notifier waits for them, with a limit.

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

/// For so long the reboot waits for changes to end. A SEAL that gives up lets go of devices first,
/// so what is left undone after this long is memory of a kernel that is about to end.
pub(crate) const LIMIT_MS: u32 = 2000;

/// Whether the reboot has begun; never reset.
static LEAVING: Atomic<u32> = Atomic::new(0);
/// Changes that are going on.
static CHANGES: wait::Count = wait::Count::new();

/// A change of what is handed over or of what came from the last kernel, while it goes on.
pub(crate) struct Change(());

impl Change {
    /// `EAGAIN` once the host is on its way.
    pub(crate) fn begin() -> Result<Change> {
        CHANGES.enter();
        let change = Change(());
        // `enter()` is fully ordered, as the store of the flag is: either this sees the flag, or
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

/// Whether a call that may take long goes on: `EAGAIN` once the host is on its way, `EINTR` for a
/// task that was killed.
pub(crate) fn go_on() -> Result {
    if begun() {
        return Err(EAGAIN);
    }
    wait::not_killed()
}

/// The reboot has begun: no change begins from now on, and those that run have ended when this
/// returns, or the limit has been reached. Returns whether they have, and how many milliseconds that
/// took.
pub(crate) fn begin() -> (bool, i64) {
    let started = Instant::<Monotonic>::now();
    LEAVING.xchg(1, Full);
    let ended = CHANGES.wait_for_none(LIMIT_MS);
    (ended, started.elapsed().as_millis())
}
