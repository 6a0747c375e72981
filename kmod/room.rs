// SPDX-License-Identifier: GPL-2.0

//! Memory that SEALs mean to take: promised to a file before any of it is taken, so that no two of
//! them count on the same.
//!
//! A file takes memory for its holes, and for pages that lie where nothing can be pinned: see
//! `room.c`. What it was promised is given up as it is taken.

use crate::ffi;
use kernel::{
    fs::File,
    page::PAGE_SIZE,
    prelude::*,
    rbtree::RBTree, //
};

/// What was promised and not taken yet.
struct Promises {
    /// Pages by file: the address of one that is in a box, which holds it.
    of: Option<RBTree<usize, u64>>,
    /// The sum of them.
    pages: u64,
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init()`, before the module offers anything.
    unsafe(uninit) static PROMISES: Mutex<Promises> = Promises {
        of: None,
        pages: 0,
    };
}

/// Called once, when the module loads.
pub(crate) fn init() {
    // SAFETY: Called once, before any other use.
    unsafe { PROMISES.init() };
}

/// Why there is no promise, in pages.
pub(crate) struct Shortage {
    /// That the file has holes for.
    pub(crate) holes: u64,
    /// That must move.
    pub(crate) moves: u64,
    /// That the host has.
    pub(crate) room: u64,
    /// That are promised to other files.
    pub(crate) promised: u64,
}

impl Shortage {
    fn is_met(&self) -> bool {
        let wanted = self.holes.saturating_add(self.moves);
        wanted.saturating_add(self.promised) <= self.room
    }
}

/// Promises `file` what SEAL takes for it, or says what is short. `pinned`: its pages will be.
pub(crate) fn promise(file: &File, pinned: bool) -> Result<Option<Shortage>> {
    let pages = crate::file::size(file).div_ceil(PAGE_SIZE as u64);
    // SAFETY: The file is live.
    let cached = unsafe { ffi::fdbox_shim_cached_pages(file.as_ptr()) };
    let holes = pages.saturating_sub(cached);
    // SAFETY: No precondition.
    let in_use = unsafe { ffi::fdbox_shim_unpinnable_in_use() };
    let most = if pinned { cached.min(in_use) } else { 0 };
    let short = promise_pages(file, holes, most)?;
    if most == 0 || short.is_none() {
        return Ok(short);
    }
    // That was the most that could be. How many it is takes a look at each page.
    let mut survey = ffi::fdbox_survey::default();
    // SAFETY: The file is live, the place is valid for writing.
    unsafe { ffi::fdbox_shim_survey(file.as_ptr(), 0, u64::MAX, &mut survey) };
    promise_pages(file, holes, survey.moves)
}

fn promise_pages(file: &File, holes: u64, moves: u64) -> Result<Option<Shortage>> {
    let wanted = holes.saturating_add(moves);
    if wanted == 0 {
        return Ok(None);
    }
    let mut promises = PROMISES.lock();
    // SAFETY: No precondition.
    let room = unsafe { ffi::fdbox_shim_room() };
    let short = Shortage {
        holes,
        moves,
        room,
        promised: promises.pages,
    };
    if !short.is_met() {
        return Ok(Some(short));
    }
    let tree = promises.of.get_or_insert_with(RBTree::new);
    let before = tree.try_create_and_insert(address(file), wanted, GFP_KERNEL)?;
    let before = before.map_or(0, |node| node.to_key_value().1);
    promises.pages = promises.pages.saturating_sub(before).saturating_add(wanted);
    Ok(None)
}

/// So many of the pages that `file` was promised are taken.
pub(crate) fn taken(file: &File, pages: u64) {
    let mut promises = PROMISES.lock();
    let tree = promises.of.as_mut();
    let Some(left) = tree.and_then(|tree| tree.get_mut(&address(file))) else {
        return;
    };
    let pages = pages.min(*left);
    *left -= pages;
    promises.pages = promises.pages.saturating_sub(pages);
}

/// What `file` was promised and has not taken goes to others; returns how many pages.
pub(crate) fn release(file: &File) -> u64 {
    let mut promises = PROMISES.lock();
    let tree = promises.of.as_mut();
    let left = tree.and_then(|tree| tree.remove(&address(file)));
    let left = left.unwrap_or(0);
    promises.pages = promises.pages.saturating_sub(left);
    left
}

/// Pages that SEAL may take now, promised or not.
pub(crate) fn room() -> u64 {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_room() }
}

/// For messages.
pub(crate) fn mib(pages: u64) -> u64 {
    pages / (1024 * 1024 / PAGE_SIZE as u64)
}

fn address(file: &File) -> usize {
    file.as_ptr() as usize
}
