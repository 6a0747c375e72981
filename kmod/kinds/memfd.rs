// SPDX-License-Identifier: GPL-2.0

//! memfd: an unlinked shmem file.
//!
//! Preserved: content, size, position of the file, seals, owner and mode, the name that `/proc`
//! shows, whether the file is open for reading and for writing, `O_APPEND` and `O_NONBLOCK`; large
//! folios stay large.
//!
//! Not preserved: holes (SEAL fills them), `FD_CLOEXEC` and other status flags, timestamps, which
//! pages were swapped out, NUMA policy, seals that are added while it is sealed. hugetlb memfds are another kind, which nobody serves yet.
//!
//! While sealed: the size cannot change, no page can be removed, all pages are pinned. Content
//! may change, by mapping and by `write()` within the size.
//!
//! Refused: broken pages (hwpoison).
//!
//! Data: that of `abi_memfd`. Extents: the whole file, from its first page on.

use crate::abi_memfd::{
    self,
    MemfdHead,
    NAME_MAX, //
};
use crate::ffi::{
    self,
    MemfdState, //
};
use crate::file::{
    self,
    FileRef, //
};
use crate::kho::{
    self,
    Held, //
};
use crate::kind::{
    Kind,
    Reason,
    SealCx,
    TakeCx,
    UnsealCx, //
};
use crate::leaving;
use crate::record::{
    Progress,
    Record, //
};
use crate::room;
use kernel::{
    bindings,
    error::to_result,
    fs::File,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Folios pinned at a time.
const BATCH: usize = 512;

pub(crate) struct Memfd;

impl Kind for Memfd {
    fn compatible(&self) -> &[u8] {
        abi_memfd::MEMFD
    }

    fn reads(&self, compatible: &[u8]) -> bool {
        compatible == abi_memfd::MEMFD || compatible == abi_memfd::MEMFD_V1
    }

    fn matches(&self, file: &File) -> bool {
        // SAFETY: `file` is a live file.
        unsafe { ffi::fdbox_shim_is_memfd(file.as_ptr()) }
    }

    fn supported(&self) -> Result<(), &'static str> {
        // What a kernel may lack is needed for the way out of a handover only.
        // SAFETY: No precondition.
        match !kho::enabled() || unsafe { ffi::fdbox_shim_memfd_supported() } {
            true => Ok(()),
            false => Err("kmod/patches/0002-mm-shmem-add-runs-of-folios.patch"),
        }
    }

    fn bytes(&self, file: &File) -> u64 {
        file::size(file)
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        if kho::enabled() {
            cx.needs_room(true)?;
        }
        // SAFETY: The file is live and of this kind.
        to_result(unsafe { ffi::fdbox_shim_memfd_freeze(cx.file.as_ptr()) }).map_err(|err| {
            room::release(cx.file);
            match err {
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
            }
        })
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        write_state(cx.file, record)?;
        let written = pin_all(cx, record);
        let left = room::release(cx.file);
        let Err((err, at)) = written else {
            return Ok(());
        };
        unpin_all(record);
        if record.filled {
            give_back(cx.file);
        }
        Err(match err {
            ENOMEM => cx.ran_out(at, left),
            EHWPOISON => cx.is_poisoned(at),
            EBUSY => cx.refuse(
                err,
                Reason::UnsupportedState,
                fmt!(
                    "page {} lies where the kernel must be able to move it (KHO's area, CMA or movable memory), and somebody else holds it: a pipe (splice, vmsplice), direct I/O, another pin; end that, and seal again",
                    at
                ),
            ),
            _ => err,
        })
    }

    fn unseal(&self, file: &File, record: Option<&Record>) {
        room::release(file);
        if let Some(record) = record {
            unpin_all(record);
            if record.filled {
                give_back(file);
            }
        }
        // SAFETY: The file is live and was frozen by `seal()`.
        unsafe { ffi::fdbox_shim_memfd_thaw(file.as_ptr()) };
    }

    fn check(&self, _cx: &mut UnsealCx<'_>, compatible: &[u8], record: &Record) -> Result {
        read_state(compatible, record).map(drop)
    }

    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        compatible: &[u8],
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef> {
        let (state, name) = read_state(compatible, record)?;
        if cx.devices_wait() && progress.held.is_none() {
            progress.held = Some(Held::default());
        }
        let file = match &progress.file {
            Some(file) => file.clone(),
            None => {
                let file = create(&state, name)?;
                progress.file = Some(file.clone());
                file
            }
        };
        let mut held = progress.held.take();
        let given = progress.give(record, |run| {
            if let Err(err) = leaving::go_on() {
                return run.refused(err);
            }
            if let Some(held) = &mut held {
                // Before anybody finds them in the file, who could move them.
                if let Err(err) = run.hold(held) {
                    return run.refused(err);
                }
            }
            let extent = run.extent();
            // SAFETY: The file is of this kind and nobody else's yet; the run has the folios.
            let added = unsafe {
                ffi::fdbox_shim_memfd_add(
                    file.as_ptr(),
                    run.index(),
                    extent.pfn,
                    extent.folios,
                    extent.down,
                )
            };
            // SAFETY: So many are the file's now.
            unsafe { run.given(added) }
        });
        progress.held = held;
        given?;
        // SAFETY: As above, and all pages are in; the file that is returned is ours.
        let file = unsafe { file::from_c(ffi::fdbox_shim_memfd_finish(file.as_ptr(), &state)) }?;
        cx.remember(&file, progress)?;
        Ok(file)
    }
}

fn write_state(file: &File, record: &mut Record) -> Result {
    let mut state = MemfdState::default();
    let mut name = [0; NAME_MAX];
    // SAFETY: The file is of this kind; both places are valid for writing.
    let name_len = unsafe {
        ffi::fdbox_shim_memfd_state(file.as_ptr(), &mut state);
        ffi::fdbox_shim_memfd_name(file.as_ptr(), name.as_mut_ptr(), name.len())
    };
    let head = MemfdHead {
        size: state.size,
        pos: state.pos,
        seals: state.seals,
        mode: state.mode,
        uid: state.uid,
        gid: state.gid,
    };
    abi_memfd::Memfd {
        head,
        flags: state.flags,
        name: name.get(..name_len as usize).ok_or(EIO)?,
    }
    .put(record)
}

/// State and name of a memfd whose pages are all there.
fn read_state<'a>(compatible: &[u8], record: &'a Record) -> Result<(MemfdState, &'a [u8])> {
    let saved = abi_memfd::Memfd::decode(compatible, record.data()).map_err(|_| EIO)?;
    if record.pages() < saved.head.size.div_ceil(PAGE_SIZE as u64) || !record.is_aligned() {
        return Err(EIO);
    }
    let state = MemfdState {
        size: saved.head.size,
        pos: saved.head.pos,
        seals: saved.head.seals,
        mode: saved.head.mode,
        uid: saved.head.uid,
        gid: saved.head.gid,
        flags: saved.flags,
    };
    Ok((state, saved.name))
}

fn create(state: &MemfdState, name: &[u8]) -> Result<FileRef> {
    let mut terminated = [0; NAME_MAX + 1];
    terminated[..name.len()].copy_from_slice(name);
    // SAFETY: The name has a NUL, the state is valid for reading; the file is ours.
    unsafe { file::from_c(ffi::fdbox_shim_memfd_create(terminated.as_ptr(), state)) }
}

/// Pins every page of the file and notes it in `record`; after an error, which comes with the page
/// that it came at, the record has what is pinned so far.
fn pin_all(cx: &SealCx<'_>, record: &mut Record) -> Result<(), (Error, u64)> {
    let pages = file::size(cx.file).div_ceil(PAGE_SIZE as u64);
    let mut folios: KVec<*mut bindings::folio> = KVec::new();
    for _ in 0..BATCH.min(pages as usize) {
        let pushed = folios.push(core::ptr::null_mut(), GFP_KERNEL);
        pushed.map_err(|_| (ENOMEM, 0))?;
    }
    let mut index = 0;
    while index < pages {
        leaving::go_on().map_err(|err| (err, index))?;
        let mut step = ffi::fdbox_step::default();
        // SAFETY: The file is of this kind, `folios` has room for its length, and `step` is valid
        // for writing.
        let pinned = unsafe {
            ffi::fdbox_shim_memfd_pin(
                cx.file.as_ptr(),
                index,
                folios.as_mut_ptr(),
                folios.len() as c_uint,
                &mut step,
            )
        };
        record.filled |= step.filled > 0;
        to_result(pinned.min(0) as c_int).map_err(|err| (err, step.failed_at))?;
        room::taken(cx.file, step.taken);
        let noted = note(&folios[..pinned as usize], record);
        index = noted.map_err(|err| (err, index))?;
    }
    Ok(())
}

/// Appends pinned folios to `record`, unpins those that it has no memory for, and returns the
/// index of the page after the last.
fn note(folios: &[*mut bindings::folio], record: &mut Record) -> Result<u64> {
    let mut next = 0;
    let mut result = Ok(());
    for &folio in folios {
        let (mut pfn, mut order) = (0, 0);
        // SAFETY: The folio is pinned, and the three places are valid for writing.
        unsafe { ffi::fdbox_shim_folio_span(folio, &mut pfn, &mut order, &mut next) };
        result = result.and_then(|()| record.push(pfn, order));
        if result.is_err() {
            // SAFETY: Pinned by the caller, not noted.
            unsafe { ffi::fdbox_shim_unpin(pfn, 1, order) };
        }
    }
    result.map(|()| next)
}

/// Gives back what SEAL filled holes of `file` with and nobody has used.
fn give_back(file: &File) {
    // SAFETY: The file is of this kind.
    unsafe { ffi::fdbox_shim_memfd_give_back(file.as_ptr()) };
}

fn unpin_all(record: &Record) {
    for extent in record.decoded() {
        // SAFETY: A record has what `pin_all()` pinned.
        unsafe { ffi::fdbox_shim_unpin(extent.lowest_pfn(), extent.folios, extent.order) };
    }
}
