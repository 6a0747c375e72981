// SPDX-License-Identifier: GPL-2.0

//! A memfd.

use super::folios::{
    Outcome,
    Pinned,
    Runs, //
};
use crate::ffi::{
    self,
    MemfdState, //
};
use crate::file::{
    self,
    FileRef, //
};
use core::ptr::null_mut;
use kernel::{
    bindings,
    error::to_result,
    fs::File,
    prelude::*,
    str::CStr, //
};

/// An open memfd.
///
/// # Invariants
///
/// The file is a memfd, of huge pages or not as `is_huge` says.
#[derive(Clone, Copy)]
pub(crate) struct Memfd<'a> {
    file: &'a File,
    is_huge: bool,
}

/// Space for a number of pinned folios.
pub(crate) struct Batch(KVec<*mut bindings::folio>);

impl Batch {
    /// `most` is the maximum number of folios that are pinned at a time.
    pub(crate) fn new(most: usize) -> Result<Batch> {
        let mut folios = KVec::with_capacity(most, GFP_KERNEL)?;
        for _ in 0..most {
            folios.push(null_mut(), GFP_KERNEL)?;
        }
        Ok(Batch(folios))
    }
}

/// Whether this kernel can rebuild a memfd.
pub(crate) fn is_supported() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_memfd_supported() }
}

/// Whether this kernel can freeze and rebuild a memfd of huge pages.
pub(crate) fn is_huge_supported() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_hugetlb_supported() }
}

/// An empty memfd with this state; seals and position are missing until [`Memfd::finish`]. Fails with
/// `EOPNOTSUPP` if this kernel has no huge pages of the size.
pub(crate) fn create(name: &CStr, state: &MemfdState) -> Result<FileRef> {
    let name = name.as_ptr().cast();
    // SAFETY: The name has a NUL, the state is valid for reading; we own the file.
    unsafe {
        file::from_c(match state.page_shift {
            0 => ffi::fdbox_shim_memfd_create(name, state),
            _ => ffi::fdbox_shim_hugetlb_create(name, state),
        })
    }
}

impl<'a> Memfd<'a> {
    /// The memfd behind `file`, if it is one.
    pub(crate) fn of(file: &'a File) -> Option<Memfd<'a>> {
        // SAFETY: `file` is a live file.
        let is_huge = unsafe { ffi::fdbox_shim_is_hugetlb(file.as_ptr()) };
        // SAFETY: As above.
        let is = is_huge || unsafe { ffi::fdbox_shim_is_memfd(file.as_ptr()) };
        // INVARIANT: It is one, of this kind.
        is.then_some(Memfd { file, is_huge })
    }

    /// Whether it is of huge pages.
    pub(crate) fn is_huge(self) -> bool {
        self.is_huge
    }

    /// Prevents changes of the size and removal of pages. Fails with `EBUSY` if it is already
    /// frozen, with `EOPNOTSUPP` if it has seals that cannot be restored.
    pub(crate) fn freeze(self) -> Result {
        let file = self.file.as_ptr();
        // SAFETY: By the type invariants.
        to_result(unsafe {
            match self.is_huge {
                true => ffi::fdbox_shim_hugetlb_freeze(file),
                false => ffi::fdbox_shim_memfd_freeze(file),
            }
        })
    }

    /// The inverse of [`Memfd::freeze`].
    pub(crate) fn thaw(self) {
        let file = self.file.as_ptr();
        // SAFETY: By the type invariants.
        unsafe {
            match self.is_huge {
                true => ffi::fdbox_shim_hugetlb_thaw(file),
                false => ffi::fdbox_shim_memfd_thaw(file),
            }
        };
    }

    /// Fills holes of a file of huge pages from the pool, as far as it can. Fails with `ENOMEM` if the
    /// pool has nothing for page `step.failed_at`.
    pub(crate) fn fill_huge(self, step: &mut ffi::Step) -> Result {
        // SAFETY: By the type invariants; `step` is valid for writing.
        to_result(unsafe { ffi::fdbox_shim_hugetlb_fill(self.file.as_ptr(), step) })
    }

    /// Its state, without pages and name.
    pub(crate) fn state(self) -> MemfdState {
        let mut state = MemfdState::default();
        // SAFETY: By the type invariants; `state` is valid for writing.
        unsafe { ffi::fdbox_shim_memfd_state(self.file.as_ptr(), &mut state) };
        if self.is_huge {
            // SAFETY: By the type invariants.
            state.page_shift = unsafe { ffi::fdbox_shim_hugetlb_page_shift(self.file.as_ptr()) };
        }
        state
    }

    /// The name that `/proc` shows, truncated to the length of `out`.
    pub(crate) fn name(self, out: &mut [u8]) -> &[u8] {
        // SAFETY: By the type invariants; `out` is valid for writing its length.
        let len =
            unsafe { ffi::fdbox_shim_memfd_name(self.file.as_ptr(), out.as_mut_ptr(), out.len()) };
        out.get(..len as usize).unwrap_or(&[])
    }

    /// Fills and pins pages from number `index` on, and passes each folio to `note`. Returns the
    /// number of the page after the last one. `step` is set to what that took, or where it failed.
    pub(crate) fn pin(
        self,
        index: u64,
        batch: &mut Batch,
        step: &mut ffi::Step,
        mut note: impl FnMut(Pinned) -> Result,
    ) -> Result<u64> {
        let (file, most) = (self.file.as_ptr(), batch.0.len() as c_uint);
        let folios = batch.0.as_mut_ptr();
        // SAFETY: By the type invariants; there is space for this many folios, and `step` is valid
        // for writing.
        let pinned = unsafe {
            match self.is_huge {
                true => ffi::fdbox_shim_hugetlb_pin(file, index, folios, most, step),
                false => ffi::fdbox_shim_memfd_pin(file, index, folios, most, step),
            }
        };
        to_result(pinned.min(0) as c_int)?;
        let mut next = index;
        let mut result = Ok(());
        for &folio in &batch.0[..pinned as usize] {
            // SAFETY: It was pinned above, and nobody else owns the pin.
            let (folio, after) = unsafe { Pinned::new(folio) };
            next = after;
            // Dropping the folio ends its pin.
            result = result.and_then(|()| note(folio));
        }
        result.map(|()| next)
    }

    /// Has no page count as unused or clean, since another kernel may write to it. The file is frozen.
    pub(crate) fn use_all(self) {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_use_pages(self.file.as_ptr()) };
    }

    /// Frees the memory of filled holes that was not used.
    pub(crate) fn give_back(self) {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_memfd_give_back(self.file.as_ptr()) };
    }

    /// Adds folios to the page cache, which takes over their references.
    pub(crate) fn add(self, runs: Runs<'_>) -> Outcome {
        let (file, index) = (self.file.as_ptr(), runs.index());
        let (first, nr) = (runs.as_slice().as_ptr(), runs.as_slice().len() as c_uint);
        // SAFETY: By the type invariants; the runs are valid for reading, are of one order and one
        // node, and have a reference to each folio.
        let added = unsafe {
            match self.is_huge {
                true => ffi::fdbox_shim_hugetlb_add(file, index, first, nr),
                false => ffi::fdbox_shim_memfd_add(file, index, first, nr),
            }
        };
        // SAFETY: The file now owns this many references.
        unsafe { runs.given(added) }
    }

    /// Sets seals and position; returns the file, or another open file of it with less access.
    pub(crate) fn finish(self, state: &MemfdState) -> Result<FileRef> {
        // SAFETY: By the type invariants; we own the returned file.
        unsafe { file::from_c(ffi::fdbox_shim_memfd_finish(self.file.as_ptr(), state)) }
    }
}
