// SPDX-License-Identifier: GPL-2.0

//! Counts that tasks wait for: safe wrappers.

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

/// How many are at something; others wait until nobody is.
pub(crate) struct Count(Atomic<u32>);

impl Count {
    pub(crate) const fn new() -> Count {
        Count(Atomic::new(0))
    }

    /// One more; fully ordered.
    pub(crate) fn enter(&self) {
        self.0.fetch_add(1, Full);
    }

    /// One less.
    pub(crate) fn leave(&self) {
        if self.0.fetch_sub(1, Full) == 1 {
            // SAFETY: No precondition: the address is only compared.
            unsafe { ffi::fdbox_shim_wake(self.0.as_ptr()) };
        }
    }

    /// Sleeps until nobody is in, for at most so long; whether nobody is.
    pub(crate) fn wait_for_none(&self, limit_ms: u32) -> bool {
        // SAFETY: The number lives as long as `self`, which is borrowed.
        unsafe { ffi::fdbox_shim_wait_for_zero(self.0.as_ptr(), limit_ms) }
    }

    /// Sleeps until nobody is in; `EINTR` for a task that is killed meanwhile.
    pub(crate) fn wait_for_none_killable(&self) -> Result {
        // SAFETY: As above.
        to_result(unsafe { ffi::fdbox_shim_wait_for_zero_killable(self.0.as_ptr()) })
    }
}

/// What nobody passes before it is opened, once.
pub(crate) struct Gate {
    /// 1 until then.
    closed: Atomic<u32>,
    /// What there is behind it.
    good: Atomic<u32>,
}

impl Gate {
    pub(crate) const fn closed() -> Gate {
        Gate {
            closed: Atomic::new(1),
            good: Atomic::new(0),
        }
    }

    /// Lets those who wait pass, or sends them away. Only the first time counts.
    pub(crate) fn open(&self, good: bool) {
        if self.closed.load(Acquire) == 0 {
            return;
        }
        self.good.store(good.into(), Release);
        self.closed.xchg(0, Full);
        // SAFETY: No precondition: the address is only compared.
        unsafe { ffi::fdbox_shim_wake(self.closed.as_ptr()) };
    }

    /// Sleeps until it is opened; `ENODEV` when there is nothing behind it, `EINTR` for a task that
    /// is killed meanwhile.
    pub(crate) fn pass(&self) -> Result {
        // SAFETY: The number lives as long as `self`, which is borrowed.
        to_result(unsafe { ffi::fdbox_shim_wait_for_zero_killable(self.closed.as_ptr()) })?;
        match self.good.load(Acquire) {
            0 => Err(ENODEV),
            _ => Ok(()),
        }
    }
}

/// `EINTR` for a task that was killed: nobody will see what it returns.
pub(crate) fn not_killed() -> Result {
    // SAFETY: Reads the pending signals of the current task.
    match unsafe { ffi::fdbox_shim_killed() } {
        false => Ok(()),
        true => Err(EINTR),
    }
}
