// SPDX-License-Identifier: GPL-2.0

//! Folios that this module has pinned or holds references to.

use crate::abi::Extent;
use crate::ffi::{
    self,
    FolioRun, //
};
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
            // SAFETY: Taken in `Runs::hold()`.
            unsafe { put(&extent) };
        }
    }
}

/// How many folios of `extent`, starting with the first, are on the node of the page `other`.
///
/// # Safety
///
/// The caller has references to all of them.
pub(crate) unsafe fn on_node_of(other: u64, extent: &Extent) -> u64 {
    let (pfn, folios, order) = (extent.pfn, extent.folios, extent.order);
    // SAFETY: By the safety requirements of this function they are memory of this kernel.
    unsafe { ffi::fdbox_shim_on_node_of(other, pfn, folios, order, extent.down) }
}

/// Folios that were taken over from KHO, in runs that follow one another in the descriptor.
///
/// # Invariants
///
/// All folios are of order `order` and on one node. One reference of each belongs to this value, and
/// no other value has any of them.
pub(crate) struct Runs<'a> {
    runs: &'a [FolioRun],
    order: u32,
    /// Number of pages of the descriptor before them.
    index: u64,
}

/// The result of passing on [`Runs`]: how many of the folios, starting with the first, have a new
/// owner.
pub(crate) struct Outcome {
    folios: u64,
    order: u32,
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
        self.folios << self.order
    }

    /// Fails if it was not all of them.
    pub(crate) fn result(&self) -> Result {
        self.error.map_or(Ok(()), Err)
    }
}

impl<'a> Runs<'a> {
    /// `runs` are not empty.
    ///
    /// # Safety
    ///
    /// All folios are of this order and on one node. The caller has a reference to each, and hands it
    /// over.
    pub(crate) unsafe fn new(runs: &'a [FolioRun], order: u32, index: u64) -> Runs<'a> {
        // INVARIANT: By the safety requirements of this function.
        Runs { runs, order, index }
    }

    /// Their location.
    pub(crate) fn as_slice(&self) -> &[FolioRun] {
        self.runs
    }

    /// Number of pages of the descriptor before them.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.runs.iter().map(|run| Extent {
            pfn: run.pfn as u64,
            folios: run.nr as u64,
            order: self.order,
            down: run.down,
        })
    }

    /// Takes another reference of each folio, which `held` owns.
    pub(crate) fn hold(&self, held: &mut Held) -> Result {
        for extent in self.extents() {
            held.0.push(extent.encode(), GFP_KERNEL)?;
            // SAFETY: By the type invariants.
            unsafe { ffi::fdbox_shim_get_folios(extent.lowest_pfn(), extent.folios, extent.order) };
        }
        Ok(())
    }

    /// Records that the references of the first `folios` folios have a new owner.
    ///
    /// # Safety
    ///
    /// They have, and the references of the other folios do not.
    pub(super) unsafe fn given(self, folios: u64) -> Outcome {
        let all = self.extents().map(|extent| extent.folios).sum();
        Outcome {
            folios,
            order: self.order,
            error: (folios < all).then_some(ENOMEM),
        }
    }

    /// Splits the first folio off.
    pub(crate) fn split_first(self) -> (Option<Folio>, Outcome) {
        let first = self.runs.first().map(|run| Folio(run.pfn as u64));
        let outcome = Outcome {
            folios: first.is_some().into(),
            order: self.order,
            error: None,
        };
        (first, outcome)
    }

    /// Records that none of the folios has a new owner, because of an error.
    pub(crate) fn refused(self, error: Error) -> Outcome {
        Outcome {
            folios: 0,
            order: self.order,
            error: Some(error),
        }
    }

    /// Frees the folios.
    pub(crate) fn free(self) -> Outcome {
        let mut folios = 0;
        for extent in self.extents() {
            // SAFETY: By the type invariants.
            unsafe { put(&extent) };
            folios += extent.folios;
        }
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
