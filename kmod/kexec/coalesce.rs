// SPDX-License-Identifier: GPL-2.0

//! Extents sorted by physical address, with adjacent ones coalesced.
//!
//! While more than half of the free memory is KHO's scratch area, the page allocator may serve a
//! file alternately from two places, a dozen pages each time, or with single pages from many
//! blocks. The file's extents are then short, but together they form a few long runs. KHO preserves
//! aligned power-of-two blocks, so that long runs need few of them, which the next kernel reserves
//! in its early boot. So memory is given to KHO sorted by address. The record itself keeps the file
//! order.
//!
//! This is also done for each record when the module loads, while guests are stopped. So it uses a
//! radix sort, whose time is linear in the number of extents.

use crate::abi::Extent;
use crate::ffi;
use crate::kexec::kho;
use kernel::prelude::*;

/// The memory of `extents` sorted by address, with adjacent extents of the same folio order joined.
/// `EIO` if two overlap; a repeated extent is counted once if it `may_repeat`.
pub(crate) fn coalesced(extents: &[u64], may_repeat: bool) -> Result<KVVec<u64>> {
    let mut keys = KVVec::new();
    keys.extend_from_slice(extents, GFP_KERNEL)?;
    for key in &mut keys {
        *key = key_of(kho::decode(*key)?);
    }
    if !keys.is_sorted() {
        sort(&mut keys);
    }
    merge(&mut keys, may_repeat)?;
    Ok(keys)
}

/// The bits that one pass of the sort looks at, and the number of their values. Two passes sort by the
/// addresses of 4 GiB, three by those of 4 TiB.
const DIGIT_BITS: u32 = 10;
const DIGITS: usize = 1 << DIGIT_BITS;

/// For each value of a digit, first how many keys have it, then where the next such key goes.
type Places = [usize; DIGITS];

fn digit(key: u64, shift: u32) -> usize {
    (key >> shift) as usize & (DIGITS - 1)
}

/// Sorts by address. The order of keys with the same address is undefined; such keys are an error unless
/// they are equal.
fn sort(keys: &mut KVVec<u64>) {
    let space = copy(keys).and_then(|other| {
        let places = KBox::<Places>::new_uninit(GFP_KERNEL | __GFP_NOWARN)?;
        Ok((other, places.write([0; DIGITS])))
    });
    let Ok((mut other, mut places)) = space else {
        // SAFETY: The numbers are valid for reading and writing this many. (The sort in `core` ends
        // in a panic of which objtool does not know that it never returns.)
        unsafe { ffi::fdbox_shim_sort(keys.as_mut_ptr(), keys.len()) };
        return;
    };
    let first = keys.first().copied().unwrap_or(0);
    let differ = keys.iter().fold(0, |bits, key| bits | (key ^ first));
    for shift in (ADDRESS_SHIFT..u64::BITS).step_by(DIGIT_BITS as usize) {
        if digit(differ, shift) != 0 {
            sort_by_digit(keys, &mut other, &mut places, shift);
            core::mem::swap(keys, &mut other);
        }
    }
}

fn copy(keys: &[u64]) -> Result<KVVec<u64>> {
    let mut copy = KVVec::new();
    copy.extend_from_slice(keys, GFP_KERNEL | __GFP_NOWARN)?;
    Ok(copy)
}

/// A pass: copies `from` to `to`, which has the same length, sorted by one digit. Stable.
fn sort_by_digit(from: &[u64], to: &mut [u64], places: &mut Places, shift: u32) {
    places.fill(0);
    for &key in from {
        places[digit(key, shift)] += 1;
    }
    let mut place = 0;
    for count in places.iter_mut() {
        place += core::mem::replace(count, place);
    }
    for &key in from {
        let place = &mut places[digit(key, shift)];
        to[*place] = key;
        *place += 1;
    }
}

/// The position of the address in a key.
const ADDRESS_SHIFT: u32 = 23;

/// An extent in a number that sorts by address: 40 bits of the page frame number, 18 of the number
/// of folios minus one, 5 of their order.
fn key_of(extent: Extent) -> u64 {
    extent.lowest_pfn() << ADDRESS_SHIFT | (extent.folios - 1) << 5 | u64::from(extent.order)
}

fn of_key(key: u64) -> Extent {
    Extent {
        pfn: key >> ADDRESS_SHIFT,
        folios: (key >> 5 & (Extent::MAX_FOLIOS - 1)) + 1,
        order: key as u32 & 0x1f,
        down: false,
    }
}

/// Converts the keys to extents in place, and joins adjacent ones.
fn merge(sorted: &mut KVVec<u64>, may_repeat: bool) -> Result {
    let Some(&first) = sorted.first() else {
        return Ok(());
    };
    let (mut key, mut last) = (first, of_key(first));
    let mut written = 0;
    for at in 1..sorted.len() {
        if may_repeat && sorted[at] == key {
            continue;
        }
        key = sorted[at];
        let extent = of_key(key);
        if extent.pfn < last.pfn + last.pages() {
            return Err(EIO);
        }
        if let Some(longer) = joined(last, extent) {
            last = longer;
        } else {
            sorted[written] = last.encode();
            written += 1;
            last = extent;
        }
    }
    sorted[written] = last.encode();
    sorted.truncate(written + 1);
    Ok(())
}

/// Both as one extent, if they are adjacent and not too many folios.
fn joined(last: Extent, next: Extent) -> Option<Extent> {
    let folios = last.folios + next.folios;
    let continues = next.order == last.order && last.pfn + last.pages() == next.pfn;
    (continues && folios <= Extent::MAX_FOLIOS).then_some(Extent { folios, ..last })
}
