// SPDX-License-Identifier: GPL-2.0

//! The handover ABI: the list of poisoned pages (hwpoison).
//!
//! The KHO subtree `fdbox-broken` points to one page, with a magic number, a checksum, the number
//! of poisoned pages, and their page frame numbers in ascending order. It exists only if there are
//! any.
//!
//! Like `mod.rs`, this file only encodes and decodes, and is built on the host by the project's
//! tests.

/// Name of the KHO subtree.
pub(crate) const SUBTREE: &core::ffi::CStr = c"fdbox-broken";
const MAGIC: [u8; 8] = *b"FDBOXBAD";
/// Size of the list, which is one page.
pub(crate) const LEN: usize = 4096;
const HEAD_LEN: usize = 16;
/// Maximum number of page frame numbers in the list.
pub(crate) const MOST: usize = (LEN - HEAD_LEN) / 8;

/// Encodes the list. Page frame numbers beyond [`MOST`] are left out.
///
/// | offset | bytes | what |
/// |---|---|---|
/// | 0 | 8 | magic |
/// | 8 | 4 | checksum of the page from byte 12 on |
/// | 12 | 4 | number of pages |
/// | 16 | 8 each | page frame numbers, ascending |
pub(crate) fn encode(pfns: &[u64], out: &mut [u8; LEN], crc: fn(&[u8]) -> u32) {
    let count = pfns.len().min(MOST);
    out.fill(0);
    for (place, pfn) in out[HEAD_LEN..].chunks_exact_mut(8).zip(pfns) {
        place.copy_from_slice(&pfn.to_le_bytes());
    }
    out[0..8].copy_from_slice(&MAGIC);
    out[12..16].copy_from_slice(&(count as u32).to_le_bytes());
    let sum = crc(&out[12..]);
    out[8..12].copy_from_slice(&sum.to_le_bytes());
}

/// Decodes the list of the previous kernel; `None` if it is invalid.
pub(crate) fn decode(
    page: &[u8; LEN],
    crc: fn(&[u8]) -> u32,
) -> Option<impl Iterator<Item = u64> + use<'_>> {
    let word = |at: usize| Some(u32::from_le_bytes(page.get(at..at + 4)?.try_into().ok()?));
    let count = word(12)? as usize;
    if page[0..8] != MAGIC || count > MOST || word(8)? != crc(&page[12..]) {
        return None;
    }
    let words = page[HEAD_LEN..].chunks_exact(8).take(count);
    Some(words.map(|word| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        u64::from_le_bytes(bytes)
    }))
}
