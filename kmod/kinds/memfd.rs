// SPDX-License-Identifier: GPL-2.0

//! memfd: an unlinked shmem file.
//!
//! Preserved: content, size, position of the file, seals, owner and mode, the name that `/proc`
//! shows, whether the file is open for reading and for writing, `O_APPEND` and `O_NONBLOCK`; large
//! folios stay large.
//!
//! Not preserved: holes (SEAL fills them), `FD_CLOEXEC` and other status flags, timestamps, which
//! pages were swapped out, NUMA policy, seals that are added while it is sealed.
//!
//! While sealed: the size cannot change, no page can be removed, all pages are pinned. Content
//! may change, by mapping and by `write()` within the size.
//!
//! Refused: poisoned pages (hwpoison).
//!
//! Data: see `abi/memfd.rs`. Extents: the whole file, from its first page on.

use crate::abi::memfd::{
    self as abi_memfd,
    MemfdHead,
    NAME_MAX, //
};
use crate::ffi::{
    MemfdState,
    Step, //
};
use crate::file::{
    self,
    FileRef, //
};
use crate::kexec::kho;
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::Kind;
use crate::leaving;
use crate::objects::{
    folios::Held,
    lent,
    memfd as object, //
};
use crate::room;
use crate::seal_cx::{
    Reason,
    SealCx, //
};
use crate::take_cx::TakeCx;
use crate::unseal_cx::UnsealCx;
use kernel::{
    fs::File,
    page::PAGE_SIZE,
    prelude::*,
    str::CStr, //
};

/// Folios pinned at a time.
const BATCH: usize = 512;

pub(crate) struct Memfd;

/// The memfd behind `file`, if it is one of small pages.
fn small(file: &File) -> Option<object::Memfd<'_>> {
    object::Memfd::of(file).filter(|memfd| !memfd.is_huge())
}

impl Kind for Memfd {
    fn compatible(&self) -> &[u8] {
        abi_memfd::MEMFD
    }

    fn reads(&self, compatible: &[u8]) -> bool {
        compatible == abi_memfd::MEMFD || compatible == abi_memfd::MEMFD_V1
    }

    fn matches(&self, file: &File) -> bool {
        small(file).is_some()
    }

    fn supported(&self) -> Result<(), &'static str> {
        // What a kernel may lack is needed to restore memfds only.
        match !kho::enabled() || object::is_supported() {
            true => Ok(()),
            false => Err("kmod/patches/0002-mm-shmem-add-runs-of-folios.patch"),
        }
    }

    fn bytes(&self, file: &File) -> u64 {
        file::size(file)
    }

    /// The inode: an iommufd refers to the files that it maps by inode.
    fn object(&self, file: &File) -> usize {
        file::inode(file)
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        let memfd = object::Memfd::of(cx.file).ok_or(EIO)?;
        if kho::enabled() {
            cx.needs_room(true)?;
        }
        freeze(cx, memfd).inspect_err(|_| {
            room::release(cx.file);
        })
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        let memfd = object::Memfd::of(cx.file).ok_or(EIO)?;
        let mut name = [0; NAME_MAX];
        saved(memfd, &mut name).put(record)?;
        let written = pin_all(cx.file, memfd, BATCH, record);
        let left = room::release(cx.file);
        let Err((err, at)) = written else {
            return Ok(());
        };
        record.unpin();
        if record.filled {
            memfd.give_back();
        }
        Err(match err {
            ENOMEM => cx.ran_out(at, left),
            _ => not_pinned(cx, err, at),
        })
    }

    fn unseal(&self, file: &File, record: Option<&Record>) {
        room::release(file);
        let Some(memfd) = object::Memfd::of(file) else {
            return;
        };
        if let Some(record) = record {
            record.unpin();
            if record.filled {
                memfd.give_back();
            }
        }
        memfd.thaw();
    }

    fn check(&self, _cx: &mut UnsealCx<'_>, compatible: &[u8], record: &Record) -> Result {
        saved_in(compatible, record).map(drop)
    }

    fn lend(&self, file: &File) {
        if let Some(memory) = object::Memfd::of(file) {
            memory.use_all();
        }
    }

    fn borrow(&self, _cx: &mut TakeCx<'_>, compatible: &[u8], record: &Record) -> Result<FileRef> {
        let saved = saved_in(compatible, record)?;
        let writable = saved.flags & abi_memfd::WRITE != 0;
        let name = terminated(saved.name);
        let name = CStr::from_bytes_until_nul(&name).map_err(|_| EIO)?;
        let size = saved.head.size;
        lent::create(name, size, writable, record.extents(), record.kept()?)
    }

    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        compatible: &[u8],
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef> {
        let saved = saved_in(compatible, record)?;
        restore(cx, record, progress, &saved, 0)
    }
}

/// Freezes the file, or refuses it.
pub(super) fn freeze(cx: &SealCx<'_>, memfd: object::Memfd<'_>) -> Result {
    memfd.freeze().map_err(|err| match err {
        EBUSY => cx.refuse(
            err,
            Reason::SharedFile,
            fmt!("the file is sealed already, here under another name, in another box, or by LUO; put it into one box once"),
        ),
        _ => cx.refuse(
            err,
            Reason::UnsupportedState,
            fmt!("the file has seals that this module does not know"),
        ),
    })
}

/// The error of a page that could not be pinned, for any reason but lack of memory.
pub(super) fn not_pinned(cx: &SealCx<'_>, err: Error, page: u64) -> Error {
    match err {
        EHWPOISON => cx.is_poisoned(page),
        EBUSY => cx.refuse(
            err,
            Reason::UnsupportedState,
            fmt!(
                "page {} lies where the kernel must be able to move it (KHO's area, CMA or movable memory), and somebody else holds it: a pipe (splice, vmsplice), direct I/O, another pin; end that, and seal again",
                page
            ),
        ),
        _ => err,
    }
}

/// What is saved of a memfd, without its pages.
pub(super) fn saved<'a>(
    memfd: object::Memfd<'_>,
    name: &'a mut [u8; NAME_MAX],
) -> abi_memfd::Memfd<'a> {
    let state = memfd.state();
    abi_memfd::Memfd {
        head: MemfdHead {
            size: state.size,
            pos: state.pos,
            seals: state.seals,
            mode: state.mode,
            uid: state.uid,
            gid: state.gid,
        },
        flags: state.flags,
        name: memfd.name(name),
    }
}

/// Reads what is saved of a memfd.
fn saved_in<'a>(compatible: &[u8], record: &'a Record) -> Result<abi_memfd::Memfd<'a>> {
    let saved = abi_memfd::Memfd::decode(compatible, record.data()).map_err(|_| EIO)?;
    match covers(record, &saved) {
        true => Ok(saved),
        false => Err(EIO),
    }
}

/// Whether the extents of `record` cover the size of the file, each folio at a multiple of its own.
pub(super) fn covers(record: &Record, saved: &abi_memfd::Memfd<'_>) -> bool {
    record.pages() >= saved.head.size.div_ceil(PAGE_SIZE as u64) && record.is_aligned()
}

/// Makes a memfd from what was saved, or goes on with it. `page_shift` is 0 unless it has huge pages.
pub(super) fn restore(
    cx: &mut TakeCx<'_>,
    record: &Record,
    progress: &mut Progress,
    saved: &abi_memfd::Memfd<'_>,
    page_shift: u32,
) -> Result<FileRef> {
    let head = saved.head;
    let state = MemfdState {
        size: head.size,
        pos: head.pos,
        seals: head.seals,
        mode: head.mode,
        uid: head.uid,
        gid: head.gid,
        flags: saved.flags,
        page_shift,
    };
    if cx.must_stay() && progress.held.is_none() {
        progress.held = Some(Held::default());
    }
    let file = match &progress.file {
        Some(file) => file.clone(),
        None => {
            let file = create(&state, saved.name)?;
            progress.file = Some(file.clone());
            file
        }
    };
    let memfd = object::Memfd::of(&file).ok_or(EIO)?;
    let mut held = progress.held.take();
    let given = progress.give(record, |runs| {
        if let Err(err) = leaving::go_on() {
            return runs.refused(err);
        }
        if let Some(held) = &mut held {
            // Before they can be found in the file and be moved.
            if let Err(err) = runs.hold(held) {
                return runs.refused(err);
            }
        }
        memfd.add(runs)
    });
    progress.held = held;
    given?;
    let file = memfd.finish(&state)?;
    cx.remember(&file, progress)?;
    Ok(file)
}

fn create(state: &MemfdState, name: &[u8]) -> Result<FileRef> {
    let name = terminated(name);
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| EIO)?;
    object::create(name, state)
}

/// `name`, of at most [`NAME_MAX`] bytes, with a NUL.
fn terminated(name: &[u8]) -> [u8; NAME_MAX + 1] {
    let mut terminated = [0; NAME_MAX + 1];
    terminated[..name.len()].copy_from_slice(name);
    terminated
}

/// Pins every page of the file, at most `most` folios at a time, and adds it to `record`. An error is
/// returned with the number of the page; the record then has what has been pinned so far.
pub(super) fn pin_all(
    file: &File,
    memfd: object::Memfd<'_>,
    most: usize,
    record: &mut Record,
) -> Result<(), (Error, u64)> {
    let pages = file::size(file).div_ceil(PAGE_SIZE as u64);
    let batch = object::Batch::new(most.min(pages as usize));
    let mut batch = batch.map_err(|err| (err, 0))?;
    let mut index = 0;
    while index < pages {
        leaving::go_on().map_err(|err| (err, index))?;
        let mut step = Step::default();
        let pinned = memfd.pin(index, &mut batch, &mut step, |folio| {
            record.push_pinned(folio)
        });
        record.filled |= step.filled > 0;
        index = pinned.map_err(|err| (err, step.failed_at))?;
        room::taken(file, step.taken);
    }
    Ok(())
}
