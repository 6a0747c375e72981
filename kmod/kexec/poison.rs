// SPDX-License-Identifier: GPL-2.0

//! Poisoned pages (hwpoison) across a kexec.
//!
//! SEAL refuses a file that has a poisoned page. A page that is poisoned while its file is sealed
//! is handed over like all others, because otherwise the next kernel's allocator would get it, and
//! the next kernel is given a list of such pages. It marks them before they are used.

use crate::abi::poison as abi_poison;
use crate::abi::Extent;
use crate::ffi;
use crate::kexec::subtree;
use crate::ratelimit;
use kernel::{
    error::to_result,
    prelude::*,
    str::CStrExt, //
};

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init()`, before the module offers anything.
    unsafe(uninit) static KNOWN: Mutex<KVVec<u64>> = KVVec::new();
}

/// Called once, when the module loads.
pub(crate) fn init() {
    // SAFETY: Called once, before any other use.
    unsafe { KNOWN.init() };
}

/// Frees the list, when the module is unloaded.
pub(crate) fn exit() {
    *KNOWN.lock() = KVVec::new();
}

/// Reads the list of the last kernel. Called before any memory is restored.
pub(crate) fn receive(crc: fn(&[u8]) -> u32) -> Result {
    let Some((page, len)) = subtree::find(abi_poison::SUBTREE)? else {
        return Ok(());
    };
    if len < abi_poison::LEN {
        return Err(EIO);
    }
    // SAFETY: KHO keeps the page that the subtree points to, and nobody writes to it.
    let page = unsafe { &*page.as_ptr().cast::<[u8; abi_poison::LEN]>() };
    let mut known = KNOWN.lock();
    for pfn in abi_poison::decode(page, crc).ok_or(EIO)? {
        known.push(pfn, GFP_KERNEL)?;
    }
    pr_warn!(
        "{} pages of memory were found broken by kernels before this one\n",
        known.len()
    );
    Ok(())
}

/// Fails with `EHWPOISON` if `extent` has a poisoned page and this kernel cannot mark it.
pub(crate) fn check(extent: &Extent) -> Result {
    // SAFETY: No precondition.
    if unsafe { ffi::fdbox_shim_poison_supported() } || count_in(&KNOWN.lock(), extent) == 0 {
        return Ok(());
    }
    if ratelimit::may_log() {
        pr_err!("a descriptor has a broken page of memory: it takes a kernel with CONFIG_MEMORY_FAILURE\n");
    }
    Err(EHWPOISON)
}

/// Marks the poisoned pages of `extent`.
///
/// # Safety
///
/// Its folios were just restored and belong to the caller.
pub(crate) unsafe fn mark(extent: &Extent) {
    let known = KNOWN.lock();
    let first = known.partition_point(|&pfn| pfn < extent.lowest_pfn());
    for &pfn in &known[first..][..count_in(&known, extent)] {
        // SAFETY: The page is one of the caller's.
        unsafe { ffi::fdbox_shim_poison_mark(pfn) };
    }
}

/// How many of the `known` pages, which are sorted, are in `extent`.
fn count_in(known: &[u64], extent: &Extent) -> usize {
    let first = extent.lowest_pfn();
    let before = |end: u64| known.partition_point(|&pfn| pfn < end);
    before(first + extent.pages()) - before(first)
}

/// Hands the list over to the next kernel: the pages from the last one's list, and those of
/// `extents` that were poisoned since. Called at reboot; there is no inverse.
pub(crate) fn hand_on(extents: impl Iterator<Item = u64>, crc: fn(&[u8]) -> u32) -> Result {
    let mut known = KNOWN.lock();
    // Checking each page takes long, and is hardly ever needed. SAFETY: No precondition.
    if unsafe { ffi::fdbox_shim_poison_events() } > 0 {
        for raw in extents {
            add_broken(&mut known, Extent::decode(raw).map_err(|_| EIO)?)?;
        }
    }
    if known.is_empty() {
        return Ok(());
    }
    if known.len() > abi_poison::MOST {
        pr_err!("more broken pages of memory than the next kernel can be told of\n");
    }
    // SAFETY: No precondition.
    let page = unsafe { ffi::fdbox_shim_kho_alloc_root() };
    if page.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: A fresh page, which nobody else knows.
    abi_poison::encode(&known, unsafe { &mut *page.cast() }, crc);
    pr_warn!(
        "the next kernel is told of {} broken pages of memory\n",
        known.len()
    );
    // SAFETY: The root is a preserved page of this length.
    to_result(unsafe {
        ffi::fdbox_shim_kho_publish(abi_poison::SUBTREE.as_char_ptr(), page, abi_poison::LEN)
    })
}

/// Adds the poisoned pages of `extent` to `known`, which stays sorted.
fn add_broken(known: &mut KVVec<u64>, extent: Extent) -> Result {
    let end = extent.lowest_pfn() + extent.pages();
    let mut pfn = extent.lowest_pfn();
    loop {
        // SAFETY: Only looks at pages that exist.
        pfn = unsafe { ffi::fdbox_shim_poison_find(pfn, end) };
        if pfn >= end {
            return Ok(());
        }
        let at = known.partition_point(|&other| other < pfn);
        if known.get(at) != Some(&pfn) {
            known.push(pfn, GFP_KERNEL)?;
            known[at..].rotate_right(1);
        }
        pfn += 1;
    }
}
