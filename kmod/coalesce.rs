// SPDX-License-Identifier: GPL-2.0

//! Extents sorted by physical address, neighbours coalesced.
//!
//! The page allocator may serve a file from two places by turns, a dozen pages from each, as it does
//! while more than half of the free memory is KHO's area for the next kernel. The file's extents are
//! short then, but their memory is a few long runs. KHO keeps aligned powers of two: of long runs few
//! large ones, for the next kernel to reserve in its early boot and for us to take back. So KHO is
//! given a record's memory by address. A record itself keeps the order of the file.

use crate::abi::Extent;
use crate::ffi;
use crate::kho;
use kernel::prelude::*;

/// So many runs are looked at for one that an extent continues: more than there are places from
/// which the page allocator takes turns.
const RECENT_RUNS: usize = 8;

/// The memory of `extents` by address, neighbours of one folio order as one extent. `EIO` when two
/// overlap;
/// the same extent twice is one if it `may_repeat`.
pub(crate) fn coalesced(extents: &[u64], may_repeat: bool) -> Result<KVVec<u64>> {
    let mut sorted = KVVec::with_capacity(extents.len(), GFP_KERNEL)?;
    for &raw in extents {
        let extent = upwards(kho::decode(raw)?);
        // The sort compares through pointers, so what is joined before it is what makes it short.
        // What repeats must be found as it is.
        if may_repeat || !lengthen_recent(&mut sorted, extent) {
            sorted.push(key(extent), GFP_KERNEL)?;
        }
    }
    if !sorted.is_sorted() {
        // SAFETY: The numbers are valid for reading and writing, so many of them. (The sort of
        // `core` ends in a panic that objtool does not know never to return.)
        unsafe { ffi::fdbox_shim_sort(sorted.as_mut_ptr(), sorted.len()) };
    }
    merge(&mut sorted, may_repeat)?;
    Ok(sorted)
}

/// The same memory. The direction is the file's business.
fn upwards(extent: Extent) -> Extent {
    Extent {
        pfn: extent.lowest_pfn(),
        down: false,
        ..extent
    }
}

/// Whether one of the last runs could be made longer by `extent`, at either end.
fn lengthen_recent(runs: &mut [u64], extent: Extent) -> bool {
    for key_of_run in runs.iter_mut().rev().take(RECENT_RUNS) {
        let run = of_key(*key_of_run);
        if let Some(longer) = joined(run, extent).or_else(|| joined(extent, run)) {
            *key_of_run = key(longer);
            return true;
        }
    }
    false
}

/// An extent in a number that sorts by address: 40 bits of the page frame number, 18 of the number
/// of folios minus one, 5 of their order.
fn key(extent: Extent) -> u64 {
    extent.pfn << 23 | (extent.folios - 1) << 5 | u64::from(extent.order)
}

fn of_key(key: u64) -> Extent {
    Extent {
        pfn: key >> 23,
        folios: (key >> 5 & (Extent::MAX_FOLIOS - 1)) + 1,
        order: key as u32 & 0x1f,
        down: false,
    }
}

/// Makes extents of the keys again, in place, and one of neighbours.
fn merge(sorted: &mut KVVec<u64>, may_repeat: bool) -> Result {
    let mut last: Option<Extent> = None;
    let mut written = 0;
    for at in 0..sorted.len() {
        if may_repeat && at > 0 && sorted[at] == sorted[at - 1] {
            continue;
        }
        let extent = of_key(sorted[at]);
        let longer = match last {
            Some(last) if extent.pfn < last.pfn + last.pages() => return Err(EIO),
            Some(last) => joined(last, extent),
            None => None,
        };
        if let (None, Some(done)) = (longer, last) {
            sorted[written] = done.encode();
            written += 1;
        }
        last = longer.or(Some(extent));
    }
    if let Some(last) = last {
        sorted[written] = last.encode();
        written += 1;
    }
    sorted.truncate(written);
    Ok(())
}

/// Both as one, if `next` continues `last` and one extent holds them.
fn joined(last: Extent, next: Extent) -> Option<Extent> {
    let folios = last.folios + next.folios;
    let continues = next.order == last.order && last.pfn + last.pages() == next.pfn;
    (continues && folios <= Extent::MAX_FOLIOS).then_some(Extent { folios, ..last })
}
