// SPDX-License-Identifier: GPL-2.0

//! References to this module itself.

use crate::ffi;
use kernel::prelude::*;

/// A reference to this module: it cannot be unloaded as long as this exists.
pub(crate) struct ModuleHold(());

impl ModuleHold {
    /// Fails only while the module is being unloaded.
    pub(crate) fn new() -> Result<ModuleHold> {
        // SAFETY: No precondition.
        match unsafe { ffi::fdbox_shim_self_get() } {
            true => Ok(ModuleHold(())),
            false => Err(ENODEV),
        }
    }
}

impl Drop for ModuleHold {
    fn drop(&mut self) {
        // SAFETY: Held since `new()`; the control node's open file, or module init, still holds
        // the module while this runs.
        unsafe { ffi::fdbox_shim_self_put() };
    }
}
