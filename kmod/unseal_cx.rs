// SPDX-License-Identifier: GPL-2.0

//! The context of a kind at UNSEAL, and what it reports.

use crate::uapi;
use kernel::{
    prelude::*,
    str::CString, //
};

/// Why a descriptor cannot be given out, in addition to the errno.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum LostReason {
    Other = uapi::LOST_OTHER,
    UnknownKind = uapi::LOST_UNKNOWN_KIND,
    Memory = uapi::LOST_MEMORY,
    Dependency = uapi::LOST_DEPENDENCY,
    Data = uapi::LOST_DATA,
    Refused = uapi::LOST_REFUSED,
}

/// A descriptor that cannot be given out.
pub(crate) struct Lost {
    /// Its id in the box.
    pub(crate) id: u64,
    pub(crate) error: Error,
    pub(crate) reason: LostReason,
    pub(crate) message: Option<CString>,
}

/// An UNSEAL, at one descriptor.
pub(crate) struct UnsealCx<'a> {
    /// Whether the box has a descriptor of this name.
    pub(crate) has: &'a dyn Fn(&[u8]) -> bool,
    /// Set by [`UnsealCx::lost`].
    pub(crate) refusal: Option<(LostReason, CString)>,
}

impl UnsealCx<'_> {
    /// Stores why the descriptor is lost.
    pub(crate) fn lost(
        &mut self,
        error: Error,
        reason: LostReason,
        message: kernel::fmt::Arguments<'_>,
    ) -> Error {
        match CString::try_from_fmt(message) {
            Ok(message) => {
                self.refusal = Some((reason, message));
                error
            }
            Err(err) => err,
        }
    }

    /// Fails unless the box has a descriptor called `name`; `what` describes it in the message.
    pub(crate) fn needs(&mut self, what: &str, name: &[u8]) -> Result {
        if (self.has)(name) {
            return Ok(());
        }
        let name = kernel::str::BStr::from_bytes(name);
        Err(self.lost(
            EIO,
            LostReason::Dependency,
            fmt!("{} '{}' is not in the box", what, name),
        ))
    }
}
