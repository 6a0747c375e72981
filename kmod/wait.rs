// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of wait_var_event(): counters and gates that tasks sleep on.

use crate::ffi;
use kernel::{
    error::to_result,
    prelude::*,
    sync::atomic::{
        ordering::{
            Acquire,
            Full,
            Release, //
        },
        Atomic, //
    },
};

/// A counter; tasks can wait for it to become 0.
pub(crate) struct Count(Atomic<u32>);

impl Count {
    pub(crate) const fn new() -> Count {
        Count(Atomic::new(0))
    }

    /// Increments it; fully ordered.
    pub(crate) fn enter(&self) {
        self.0.fetch_add(1, Full);
    }

    /// Decrements it, and wakes the waiters at 0.
    pub(crate) fn leave(&self) {
        if self.0.fetch_sub(1, Full) == 1 {
            // SAFETY: No precondition: the address is only compared.
            unsafe { ffi::fdbox_shim_wake(self.0.as_ptr()) };
        }
    }

    /// Sleeps until it is 0, or the limit has passed; returns whether it is 0.
    pub(crate) fn wait_for_none(&self, limit_ms: u32) -> bool {
        // SAFETY: The number lives as long as `self`, which is borrowed.
        unsafe { ffi::fdbox_shim_wait_for_zero(self.0.as_ptr(), limit_ms) }
    }

    /// Sleeps until it is 0; fails with `EINTR` if the task is killed.
    pub(crate) fn wait_for_none_killable(&self) -> Result {
        // SAFETY: As above.
        to_result(unsafe { ffi::fdbox_shim_wait_for_zero_killable(self.0.as_ptr()) })
    }
}

/// A gate at which tasks wait until it is opened, once.
pub(crate) struct Gate {
    /// 1 until it is opened.
    closed: Atomic<u32>,
    /// 1 if waiters may continue, 0 if they get an error.
    good: Atomic<u32>,
}

impl Gate {
    pub(crate) const fn closed() -> Gate {
        Gate {
            closed: Atomic::new(1),
            good: Atomic::new(0),
        }
    }

    /// Opens it, with success or an error for the waiters. Only the first call has an effect.
    pub(crate) fn open(&self, good: bool) {
        if self.closed.load(Acquire) == 0 {
            return;
        }
        self.good.store(good.into(), Release);
        self.closed.xchg(0, Full);
        // SAFETY: No precondition: the address is only compared.
        unsafe { ffi::fdbox_shim_wake(self.closed.as_ptr()) };
    }

    /// Sleeps until it is opened; fails with `ENODEV` if it was opened with an error, with `EINTR` if
    /// the task is killed.
    pub(crate) fn pass(&self) -> Result {
        // SAFETY: The number lives as long as `self`, which is borrowed.
        to_result(unsafe { ffi::fdbox_shim_wait_for_zero_killable(self.closed.as_ptr()) })?;
        match self.good.load(Acquire) {
            0 => Err(ENODEV),
            _ => Ok(()),
        }
    }
}

/// Fails with `EINTR` if the task was killed.
pub(crate) fn not_killed() -> Result {
    // SAFETY: Reads the pending signals of the current task.
    match unsafe { ffi::fdbox_shim_killed() } {
        false => Ok(()),
        true => Err(EINTR),
    }
}
