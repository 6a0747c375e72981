// SPDX-License-Identifier: GPL-2.0

//! The context of a kind at SEAL, and what it reports.

use crate::boxes::slots::Slots;
use crate::file;
use crate::kexec::kho;
use crate::name::Name;
use crate::room::{
    self,
    mib, //
};
use crate::take_cx::Substitute;
use crate::uapi;
use core::cell::Cell;
use kernel::{
    fs::File,
    prelude::*,
    str::CString, //
};

/// Why a SEAL failed, in addition to the errno.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Reason {
    Other = uapi::REASON_OTHER,
    MissingDependency = uapi::REASON_MISSING_DEPENDENCY,
    SharedFile = uapi::REASON_SHARED_FILE,
    UnsupportedState = uapi::REASON_UNSUPPORTED_STATE,
    NoMemory = uapi::REASON_NO_MEMORY,
}

impl Reason {
    /// The reason for an errno of a kind that gave no message.
    pub(crate) fn of(err: Error) -> Reason {
        match err {
            ENOMEM => Reason::NoMemory,
            EBUSY => Reason::SharedFile,
            EOPNOTSUPP | EFBIG => Reason::UnsupportedState,
            _ => Reason::Other,
        }
    }
}

/// What FDBOX_SEAL_ERROR returns.
pub(crate) struct SealError {
    pub(crate) error: Error,
    pub(crate) reason: Reason,
    pub(crate) name: Name,
    pub(crate) message: Option<CString>,
}

/// The context of a kind at SEAL.
pub(crate) struct SealCx<'a> {
    pub(crate) slots: &'a Slots,
    pub(crate) substitutes: &'a [Substitute],
    pub(crate) at: usize,
    pub(crate) file: &'a File,
    /// Set by [`SealCx::refuse`].
    pub(crate) refusal: Cell<Option<(Reason, CString)>>,
}

impl SealCx<'_> {
    /// Name of the first other file in the box that is the open file, or has the object behind it,
    /// with this address: see [`Kind::object`].
    pub(crate) fn name_of(&self, address: usize) -> Option<&'_ Name> {
        let at = self.slots.of_object(address, self.at)?;
        Some(&self.slots[at].name)
    }

    /// Reserves the memory that SEAL needs for the file, or refuses it with the figures. The kind
    /// releases the reservation. `pinned`: whether the file's pages will be pinned.
    pub(crate) fn needs_room(&mut self, pinned: bool) -> Result {
        let Some(short) = room::reserve(self.file, pinned)? else {
            return Ok(());
        };
        Err(self.refuse(
            ENOMEM,
            Reason::NoMemory,
            fmt!(
                "SEAL takes {} MiB for its holes and {} MiB for pages of it that must move, and the host can give {} MiB, {} MiB of it promised to other files; make the files smaller, or free memory",
                mib(short.holes),
                mib(short.moves),
                mib(short.room),
                mib(short.reserved)
            ),
        ))
    }

    /// Refuses a file that is not open for both reading and writing, for a kind whose restored
    /// files always are: nobody must get more access than they put in.
    pub(crate) fn needs_read_and_write(&mut self) -> Result {
        if !kho::enabled() || file::is_read_and_write(self.file) {
            return Ok(());
        }
        Err(self.refuse(
            EOPNOTSUPP,
            Reason::UnsupportedState,
            fmt!("the file is not open for both reading and writing, and would be in the next kernel; open it with O_RDWR"),
        ))
    }

    /// Refuses the SEAL because page `at` could not be allocated, with `left` pages of the
    /// reservation remaining.
    pub(crate) fn ran_out(&self, at: u64, left: u64) -> Error {
        self.refuse(
            ENOMEM,
            Reason::NoMemory,
            fmt!(
                "no memory for page {}: SEAL takes {} MiB more, and the host can give {} MiB; free memory, or raise the limit of the memory cgroup that SEAL is called in",
                at,
                mib(left),
                mib(room::room())
            ),
        )
    }

    /// Refuses the SEAL because of a poisoned page.
    pub(crate) fn is_poisoned(&self, page: u64) -> Error {
        self.refuse(
            EHWPOISON,
            Reason::UnsupportedState,
            fmt!(
                "the memory of page {} is broken (hwpoison): what was in it is lost; punch a hole there (fallocate) and seal again",
                page
            ),
        )
    }

    /// Refuses the SEAL with a reason and a message.
    pub(crate) fn refuse(
        &self,
        error: Error,
        reason: Reason,
        message: kernel::fmt::Arguments<'_>,
    ) -> Error {
        match CString::try_from_fmt(message) {
            Ok(message) => {
                self.refusal.set(Some((reason, message)));
                error
            }
            Err(err) => err,
        }
    }
}
