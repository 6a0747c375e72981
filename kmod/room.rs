// SPDX-License-Identifier: GPL-2.0

//! Reservations of the memory that SEAL needs, so that concurrent SEALs do not count on the same
//! free memory.
//!
//! A file needs memory for its holes, and for pages that must move because they cannot be pinned in
//! place: see `room.c`. A reservation shrinks as its memory is allocated.

use crate::ffi;
use kernel::{
    fs::File,
    page::PAGE_SIZE,
    prelude::*,
    rbtree::RBTree, //
};

/// What was reserved and not allocated yet.
struct Reservations {
    /// Number of pages, by the address of a file that is held by its box.
    of: Option<RBTree<usize, u64>>,
    /// The sum of them.
    pages: u64,
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init()`, before the module offers anything.
    unsafe(uninit) static RESERVATIONS: Mutex<Reservations> = Reservations {
        of: None,
        pages: 0,
    };
}

/// Called once, when the module loads.
pub(crate) fn init() {
    // SAFETY: Called once, before any other use.
    unsafe { RESERVATIONS.init() };
}

/// Why nothing was reserved; all figures are in pages.
pub(crate) struct Shortage {
    /// For the holes of the file.
    pub(crate) holes: u64,
    /// For pages that must move.
    pub(crate) moves: u64,
    /// What the host has available.
    pub(crate) room: u64,
    /// What is reserved for other files.
    pub(crate) reserved: u64,
}

impl Shortage {
    fn is_met(&self) -> bool {
        let wanted = self.holes.saturating_add(self.moves);
        wanted.saturating_add(self.reserved) <= self.room
    }
}

/// Reserves what SEAL needs for `file`, or returns what is missing. `pinned`: whether its pages
/// will be pinned.
pub(crate) fn reserve(file: &File, pinned: bool) -> Result<Option<Shortage>> {
    let pages = crate::file::size(file).div_ceil(PAGE_SIZE as u64);
    // SAFETY: The file is live.
    let cached = unsafe { ffi::fdbox_shim_cached_pages(file.as_ptr()) };
    let holes = pages.saturating_sub(cached);
    // SAFETY: No precondition.
    let in_use = unsafe { ffi::fdbox_shim_unpinnable_in_use() };
    let most = if pinned { cached.min(in_use) } else { 0 };
    let short = reserve_pages(file, holes, most)?;
    if most == 0 || short.is_none() {
        return Ok(short);
    }
    // That was an upper bound. For the exact number, each page has to be checked.
    let mut survey = ffi::fdbox_survey::default();
    // SAFETY: The file is live, the pointer is valid for writing.
    unsafe { ffi::fdbox_shim_survey(file.as_ptr(), 0, u64::MAX, &mut survey) };
    reserve_pages(file, holes, survey.moves)
}

fn reserve_pages(file: &File, holes: u64, moves: u64) -> Result<Option<Shortage>> {
    let wanted = holes.saturating_add(moves);
    if wanted == 0 {
        return Ok(None);
    }
    let mut reservations = RESERVATIONS.lock();
    // SAFETY: No precondition.
    let room = unsafe { ffi::fdbox_shim_room() };
    let short = Shortage {
        holes,
        moves,
        room,
        reserved: reservations.pages,
    };
    if !short.is_met() {
        return Ok(Some(short));
    }
    let tree = reservations.of.get_or_insert_with(RBTree::new);
    let before = tree.try_create_and_insert(address(file), wanted, GFP_KERNEL)?;
    let before = before.map_or(0, |node| node.to_key_value().1);
    reservations.pages = reservations
        .pages
        .saturating_sub(before)
        .saturating_add(wanted);
    Ok(None)
}

/// Accounts for pages that were allocated for `file`.
pub(crate) fn taken(file: &File, pages: u64) {
    let mut reservations = RESERVATIONS.lock();
    let tree = reservations.of.as_mut();
    let Some(left) = tree.and_then(|tree| tree.get_mut(&address(file))) else {
        return;
    };
    let pages = pages.min(*left);
    *left -= pages;
    reservations.pages = reservations.pages.saturating_sub(pages);
}

/// Drops the rest of the reservation of `file`; returns its number of pages.
pub(crate) fn release(file: &File) -> u64 {
    let mut reservations = RESERVATIONS.lock();
    let tree = reservations.of.as_mut();
    let left = tree.and_then(|tree| tree.remove(&address(file)));
    let left = left.unwrap_or(0);
    reservations.pages = reservations.pages.saturating_sub(left);
    left
}

/// Number of pages that SEAL may take now, reserved or not.
pub(crate) fn room() -> u64 {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_room() }
}

/// Pages in MiB, for messages.
pub(crate) fn mib(pages: u64) -> u64 {
    pages / (1024 * 1024 / PAGE_SIZE as u64)
}

fn address(file: &File) -> usize {
    file.as_ptr() as usize
}
