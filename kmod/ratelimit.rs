// SPDX-License-Identifier: GPL-2.0

//! How often callers of ioctls can have a line put into the kernel's log: a program with no rights but
//! those to a box must not flood it.

use crate::ffi;

/// Whether one more line may be logged now.
pub(crate) fn may_log() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_may_log() }
}
