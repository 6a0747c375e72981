// SPDX-License-Identifier: GPL-2.0

//! A boat that runs in memory of the last kernel, and that no module of this one has taken over.

use crate::ffi;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Whether there is one.
pub(crate) fn is_left() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_boat_is_left() }
}

/// Hands it on to the next kernel, if there is one. Called at reboot.
pub(crate) fn carry() {
    // SAFETY: In process context, and nobody else uses KHO for the boat.
    if let Err(err) = to_result(unsafe { ffi::fdbox_shim_boat_carry() }) {
        pr_err!("the next kernel may overwrite the boat: {:?}\n", err);
    }
}
