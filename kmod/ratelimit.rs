// SPDX-License-Identifier: GPL-2.0

//! Rate limit of log messages that callers of ioctls can cause: a program whose only right is a box
//! must not be able to flood the log.

use crate::ffi;

/// Whether a message may be logged now.
pub(crate) fn may_log() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_may_log() }
}
