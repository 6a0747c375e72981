// SPDX-License-Identifier: GPL-2.0

//! guest_memfd: guest memory that belongs to one VM.
//!
//! Preserved: content, size, creation flags. Only fully shared files (created with
//! `GUEST_MEMFD_FLAG_INIT_SHARED`) without broken pages (hwpoison): SEAL refuses others.
//!
//! Not preserved: holes (SEAL fills them), memory slot bindings (the VMM's), NUMA policy.
//!
//! Depends on: the VM it belongs to. Whoever takes it out gets a file that belongs to the VM that
//! the box gives to the same process: the same pages, in this kernel, or the restored ones.
//!
//! While sealed: no page can be removed. Content may change.
//!
//! Data: see `abi_kvm.rs`. Extents: the whole file, from its first page on.

use super::kvm_vm::{
    self,
    Vm, //
};
use crate::abi_kvm;
use crate::ffi;
use crate::file::{
    self,
    FileRef, //
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
    error::to_result,
    fs::File,
    page::PAGE_SIZE,
    prelude::*, //
};

const PATCH: &str =
    "kmod/patches/0004-KVM-guest_memfd-let-other-modules-hold-and-rebuild-file.patch";

/// Pages filled at a time.
const BATCH: u64 = 512;

pub(crate) struct GuestMemfd;

impl Kind for GuestMemfd {
    fn compatible(&self) -> &[u8] {
        abi_kvm::GUEST_MEMFD
    }

    fn matches(&self, file: &File) -> bool {
        kvm_vm::memory_of(file).is_some() || kvm_vm::unserved(self, file, c"[kvm-gmem]")
    }

    fn supported(&self) -> Result<(), &'static str> {
        // SAFETY: No precondition.
        let lacks = unsafe { ffi::fdbox_shim_gmem_lacks() };
        super::lacks(lacks, kvm_vm::MODULE, PATCH)
    }

    fn bytes(&self, file: &File) -> u64 {
        file::size(file)
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        if kvm_vm::name_of_vm(cx).is_none() {
            return Err(cx.refuse(
                ENOENT,
                Reason::MissingDependency,
                fmt!("the KVM VM that the guest_memfd belongs to is not in the box; put it in"),
            ));
        }
        cx.needs_room(false)?;
        let sealed = fill(cx).and_then(|()| freeze(cx));
        room::release(cx.file);
        if sealed.is_err() {
            give_back(cx.file);
        }
        sealed
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        let name = kvm_vm::name_of_vm(cx).ok_or(ENOENT)?.as_bytes();
        let size = file::size(cx.file);
        // SAFETY: The file is of this kind.
        let flags = unsafe { ffi::fdbox_shim_gmem_flags(cx.file.as_ptr()) };
        let saved = abi_kvm::GuestMemfd {
            size,
            flags,
            vm: name,
        };
        saved.put(record)?;
        write_folios(cx, size / PAGE_SIZE as u64, record)
    }

    fn unseal(&self, file: &File, record: Option<&Record>) {
        // Without a record nobody has looked whether there is anything.
        if record.is_none_or(|record| record.filled) {
            give_back(file);
        }
        // SAFETY: The file is of this kind and was frozen by `seal()`.
        unsafe { ffi::fdbox_shim_gmem_thaw(file.as_ptr()) };
    }

    fn take(&self, cx: &mut TakeCx<'_>, file: &FileRef) -> Result<FileRef> {
        let vm = kvm_vm::memory_of(file).ok_or(EIO)?;
        if vm.is_mine() {
            return Ok(file.clone());
        }
        let Some(source) = kvm_vm::source_by_vm(cx, vm)? else {
            return Ok(file.clone());
        };
        let new = kvm_vm::vm_from(cx, source)?;
        let vm = Vm::of(&new).ok_or(EIO)?;
        // SAFETY: The file is of this kind, `new` holds its VM; the result is ours.
        unsafe { file::from_c(ffi::fdbox_shim_gmem_link(file.as_ptr(), vm.as_ptr())) }
    }

    fn check(&self, cx: &mut UnsealCx<'_>, _compatible: &[u8], record: &Record) -> Result {
        let (_, _, vm_name) = read_state(record)?;
        cx.needs("its VM", vm_name)
    }

    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef> {
        let (size, flags, vm_name) = read_state(record)?;
        let source = kvm_vm::source_by_name(cx, vm_name)?;
        let vm_file = kvm_vm::vm_from(cx, source)?;
        let vm = Vm::of(&vm_file).ok_or(EIO)?;
        let file = open(progress, vm, size, flags)?;
        progress.give(record, |run| {
            if let Err(err) = leaving::go_on() {
                return run.refused(err);
            }
            let extent = run.extent();
            // SAFETY: The file is of this kind and nobody else's yet; the run has the folios.
            let added = unsafe {
                ffi::fdbox_shim_gmem_add(
                    file.as_ptr(),
                    run.index(),
                    extent.pfn,
                    extent.folios,
                    extent.down,
                )
            };
            // SAFETY: So many are the file's now.
            unsafe { run.given(added) }
        })?;
        Ok(file)
    }
}

/// The file that pages go to: a new one, or what an earlier attempt got to, seen from `vm`.
fn open(progress: &mut Progress, vm: Vm, size: u64, flags: u64) -> Result<FileRef> {
    let raw = match &progress.file {
        // SAFETY: The file is of this kind, the caller holds the VM.
        Some(file) => unsafe { ffi::fdbox_shim_gmem_link(file.as_ptr(), vm.as_ptr()) },
        // SAFETY: The caller holds the VM.
        None => unsafe { ffi::fdbox_shim_gmem_create(vm.as_ptr(), size, flags) },
    };
    // SAFETY: Both return a file that is ours, or an error.
    let file = unsafe { file::from_c(raw) }?;
    progress.file = Some(file.clone());
    Ok(file)
}

/// Size, flags and name of the VM of a guest_memfd whose pages are all there.
fn read_state(record: &Record) -> Result<(u64, u64, &[u8])> {
    let saved = abi_kvm::GuestMemfd::decode(record.data()).map_err(|_| EIO)?;
    let pages_only = record.decoded().all(|extent| extent.order == 0);
    if record.pages() != saved.size / PAGE_SIZE as u64 || !pages_only {
        return Err(EIO);
    }
    Ok((saved.size, saved.flags, saved.vm))
}

/// Fills the holes of the file, as long as there is memory for them.
fn fill(cx: &mut SealCx<'_>) -> Result {
    let pages = file::size(cx.file) / PAGE_SIZE as u64;
    let mut index = 0;
    while index < pages {
        leaving::go_on()?;
        let mut step = ffi::fdbox_step::default();
        // SAFETY: The file is of this kind, `step` is valid for writing.
        let filled = to_result(unsafe {
            ffi::fdbox_shim_gmem_fill(cx.file.as_ptr(), index, BATCH.min(pages - index), &mut step)
        });
        filled.map_err(|err| match err {
            ENOMEM => cx.ran_out(index, room::release(cx.file)),
            _ => err,
        })?;
        room::taken(cx.file, step.taken);
        index += BATCH;
    }
    Ok(())
}

/// Fills what is left and forbids to remove pages.
fn freeze(cx: &SealCx<'_>) -> Result {
    // SAFETY: The file is of this kind.
    to_result(unsafe { ffi::fdbox_shim_gmem_freeze(cx.file.as_ptr()) }).map_err(|err| match err {
        EOPNOTSUPP => cx.refuse(
            err,
            Reason::UnsupportedState,
            fmt!("only fully shared guest_memfds: create it with GUEST_MEMFD_FLAG_INIT_SHARED"),
        ),
        EBUSY => cx.refuse(
            err,
            Reason::SharedFile,
            fmt!("the memory is sealed already, under another name or in another box"),
        ),
        _ => err,
    })
}

/// Gives back what SEAL filled holes of `file` with and nobody has used.
fn give_back(file: &File) {
    // SAFETY: The file is of this kind.
    unsafe { ffi::fdbox_shim_gmem_give_back(file.as_ptr()) };
}

fn write_folios(cx: &SealCx<'_>, pages: u64, record: &mut Record) -> Result {
    let mut index = 0;
    while index < pages {
        leaving::go_on()?;
        let (mut folio, mut unused) = (core::ptr::null_mut(), false);
        // SAFETY: The file is of this kind and frozen, so it is full; both places are valid for
        // writing.
        let found = to_result(unsafe {
            ffi::fdbox_shim_gmem_folio(cx.file.as_ptr(), index, &mut folio, &mut unused)
        });
        found.map_err(|err| match err {
            EHWPOISON => cx.is_poisoned(index),
            _ => err,
        })?;
        record.filled |= unused;
        let (mut pfn, mut order) = (0, 0);
        // SAFETY: We hold the folio, and the three places are valid for writing.
        unsafe { ffi::fdbox_shim_folio_span(folio, &mut pfn, &mut order, &mut index) };
        // SAFETY: The reference of `fdbox_shim_gmem_folio()`; the page cache has its own.
        unsafe { ffi::fdbox_shim_put_folios(pfn, 1, order) };
        record.push(pfn, order)?;
    }
    Ok(())
}
