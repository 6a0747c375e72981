// SPDX-License-Identifier: GPL-2.0

//! Folios that this module has pinned or holds references to.

use crate::abi::Extent;
use crate::ffi;
use crate::kexec::kho;
use kernel::{
    bindings,
    prelude::*, //
};

/// A pinned folio; this object owns the pin.
///
/// # Invariants
///
/// The folio exists, and its pin ends with this object.
pub(crate) struct Pinned {
    pfn: u64,
    order: u32,
}

impl Pinned {
    /// Takes over a pin. Also returns the number of the page after the folio in its file.
    ///
    /// # Safety
    ///
    /// `folio` is pinned, and this object takes over the pin.
    pub(super) unsafe fn new(folio: *mut bindings::folio) -> (Pinned, u64) {
        // SAFETY: The folio is pinned.
        let (pfn, order, next) = unsafe { span(folio) };
        // INVARIANT: By the safety requirements of this function.
        (Pinned { pfn, order }, next)
    }

    /// Its first page.
    pub(crate) fn pfn(&self) -> u64 {
        self.pfn
    }

    /// Its size.
    pub(crate) fn order(&self) -> u32 {
        self.order
    }

    /// Consumes this object without ending the pin, which the caller accounts for.
    pub(crate) fn leave(self) {
        core::mem::forget(self);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_unpin(self.pfn, 1, self.order) };
    }
}

/// Ends the pin of each folio of `extent`.
///
/// # Safety
///
/// The pins belong to the caller.
pub(crate) unsafe fn unpin(extent: &Extent) {
    // SAFETY: By the safety requirements of this function.
    unsafe { ffi::fdbox_shim_unpin(extent.lowest_pfn(), extent.folios, extent.order) };
}

/// First page, order, and number of the page after it in its file.
///
/// # Safety
///
/// The caller has a reference to `folio` or has pinned it.
pub(crate) unsafe fn span(folio: *mut bindings::folio) -> (u64, u32, u64) {
    let (mut pfn, mut order, mut next) = (0, 0, 0);
    // SAFETY: By the safety requirements of this function; all three pointers are valid for
    // writing.
    unsafe { ffi::fdbox_shim_folio_span(folio, &mut pfn, &mut order, &mut next) };
    (pfn, order, next)
}

/// Drops one reference of each folio of `extent`.
///
/// # Safety
///
/// The references belong to the caller.
pub(super) unsafe fn put(extent: &Extent) {
    // SAFETY: By the safety requirements of this function.
    unsafe { ffi::fdbox_shim_put_folios(extent.lowest_pfn(), extent.folios, extent.order) };
}

/// Additional references to folios of a file, held as long as devices do DMA to them: a folio with an
/// unexpected reference is neither migrated nor reclaimed.
#[derive(Default)]
pub(crate) struct Held(KVVec<u64>);

impl Drop for Held {
    fn drop(&mut self) {
        for extent in self.0.iter().filter_map(|&raw| kho::decode(raw).ok()) {
            // SAFETY: Taken in `Run::hold()`.
            unsafe { put(&extent) };
        }
    }
}

/// Folios that were taken over from KHO.
///
/// # Invariants
///
/// One reference of each folio belongs to this value, and no other run has any of the folios.
pub(crate) struct Run {
    extent: Extent,
    /// Number of pages of the descriptor before them.
    index: u64,
    /// Whether they are the rest of an extent of the record.
    last: bool,
}

/// The result of passing on a [`Run`]: how many of its folios, starting with the first, have a new
/// owner.
pub(crate) struct Outcome {
    run: Run,
    folios: u64,
    /// The reason if it is not all of them.
    error: Option<Error>,
}

impl Outcome {
    /// Number of folios that have a new owner.
    pub(crate) fn folios(&self) -> u64 {
        self.folios
    }

    /// Number of their pages.
    pub(crate) fn pages(&self) -> u64 {
        self.folios << self.run.extent.order
    }

    /// Whether these were the last folios of the extent of the record.
    pub(crate) fn ends_extent(&self) -> bool {
        self.run.last && self.folios == self.run.extent.folios
    }

    /// Fails if it was not the whole run.
    pub(crate) fn result(&self) -> Result {
        self.error.map_or(Ok(()), Err)
    }
}

impl Run {
    /// The first folios of `rest` that are on one node.
    ///
    /// # Safety
    ///
    /// The caller has a reference to each folio of `rest`, and hands over those that are in the
    /// run.
    pub(crate) unsafe fn first_of(rest: Extent, index: u64) -> Run {
        let (pfn, order) = (rest.pfn, rest.order);
        // SAFETY: The caller has references to them, so they are memory of this kernel.
        let folios = unsafe { ffi::fdbox_shim_on_one_node(pfn, rest.folios, order, rest.down) };
        // INVARIANT: By the safety requirements of this function.
        Run {
            extent: Extent { folios, ..rest },
            index,
            last: folios == rest.folios,
        }
    }

    /// Their location.
    pub(crate) fn extent(&self) -> &Extent {
        &self.extent
    }

    /// Number of pages of the descriptor before them.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Takes another reference of each folio, which `held` owns.
    pub(crate) fn hold(&self, held: &mut Held) -> Result {
        held.0.push(self.extent.encode(), GFP_KERNEL)?;
        let extent = &self.extent;
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_get_folios(extent.lowest_pfn(), extent.folios, extent.order) };
        Ok(())
    }

    /// Records that the references of the first `folios` folios have a new owner.
    ///
    /// # Safety
    ///
    /// They have, and the references of the other folios of the run do not.
    pub(super) unsafe fn given(self, folios: u64) -> Outcome {
        Outcome {
            error: (folios < self.extent.folios).then_some(ENOMEM),
            run: self,
            folios,
        }
    }

    /// Splits the first folio off.
    pub(crate) fn split_first(self) -> (Folio, Outcome) {
        let first = Folio(self.extent.pfn);
        // SAFETY: The new object owns its reference.
        let mut outcome = unsafe { self.given(1) };
        outcome.error = None;
        (first, outcome)
    }

    /// Records that none of the folios has a new owner, because of an error.
    pub(crate) fn refused(self, error: Error) -> Outcome {
        Outcome {
            run: self,
            folios: 0,
            error: Some(error),
        }
    }

    /// Frees the folios.
    pub(crate) fn free(self) -> Outcome {
        let folios = self.extent.folios;
        // SAFETY: By the type invariants.
        unsafe { put(&self.extent) };
        // SAFETY: The references of all folios were dropped.
        unsafe { self.given(folios) }
    }
}

/// A folio, identified by its first page; this object owns a reference.
pub(crate) struct Folio(u64);

impl Folio {
    /// Hands the reference over.
    pub(crate) fn into_raw(self) -> *mut bindings::folio {
        // SAFETY: It is memory of this kernel.
        unsafe { ffi::fdbox_shim_folio_at(self.0) }
    }
}
