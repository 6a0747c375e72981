// SPDX-License-Identifier: GPL-2.0

//! guest_memfd: guest memory that belongs to one VM.
//!
//! Preserved: content, size, creation flags. Only fully shared files (created with
//! `GUEST_MEMFD_FLAG_INIT_SHARED`) without poisoned pages (hwpoison): SEAL refuses others.
//!
//! Not preserved: holes (SEAL fills them), memory slot bindings (the VMM's), NUMA policy.
//!
//! Depends on: the VM it belongs to. The process that takes it out gets a file that belongs to the VM that
//! the box gives to the same process, with the same pages or, in the next kernel, the restored ones.
//!
//! While sealed: no page can be removed. Content may change.
//!
//! In a boat that has borrowed the box: a file of lent memory, which a VM there gets as any mapped file. The
//! boat's KVM could make no guest_memfd of it: that has folios, and the boat no struct pages for them.
//!
//! Data: see `abi/kvm.rs`. Extents: the whole file, from its first page on.

use super::kvm_vm;
use crate::abi::kvm as abi_kvm;
use crate::ffi::Step;
use crate::file::{
    self,
    FileRef, //
};
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::Kind;
use crate::leaving;
use crate::objects::{
    guest_memfd as object,
    lent,
    vm::Vm, //
};
use crate::ratelimit;
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
        object::GuestMemfd::of(file).is_some() || kvm_vm::unserved(self, file, c"[kvm-gmem]")
    }

    fn supported(&self) -> Result<(), &'static str> {
        super::lacks(object::lacks(), kvm_vm::MODULE, PATCH)
    }

    fn bytes(&self, file: &File) -> u64 {
        file::size(file)
    }

    fn belongs_to(&self, file: &File) -> usize {
        object::GuestMemfd::of(file).map_or(0, |memory| memory.vm().address())
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        if kvm_vm::name_of_vm(cx).is_none() {
            return Err(cx.refuse(
                ENOENT,
                Reason::MissingDependency,
                fmt!("the KVM VM that the guest_memfd belongs to is not in the box; put it in"),
            ));
        }
        let memory = object::GuestMemfd::of(cx.file).ok_or(EIO)?;
        cx.needs_room(false)?;
        let sealed = fill(cx, memory).and_then(|()| freeze(cx, memory));
        room::release(cx.file);
        if sealed.is_err() {
            memory.give_back();
        }
        sealed
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        let memory = object::GuestMemfd::of(cx.file).ok_or(EIO)?;
        let size = file::size(cx.file);
        let saved = abi_kvm::GuestMemfd {
            size,
            flags: memory.flags(),
            vm: kvm_vm::name_of_vm(cx).ok_or(ENOENT)?.as_bytes(),
        };
        saved.put(record)?;
        write_folios(cx, memory, size / PAGE_SIZE as u64, record)
    }

    fn unseal(&self, file: &File, record: Option<&Record>) {
        let Some(memory) = object::GuestMemfd::of(file) else {
            return;
        };
        // Without a record it is not known whether there is anything.
        if record.is_none_or(|record| record.filled) {
            memory.give_back();
        }
        memory.thaw();
    }

    fn take(&self, cx: &mut TakeCx<'_>, file: &FileRef) -> Result<FileRef> {
        if lent::is(file) {
            return Ok(file.clone());
        }
        let memory = object::GuestMemfd::of(file).ok_or(EIO)?;
        if memory.vm().is_mine() {
            return Ok(file.clone());
        }
        let Some(source) = kvm_vm::source_by_vm(cx, memory.vm())? else {
            return Ok(file.clone());
        };
        let new = kvm_vm::vm_from(cx, source)?;
        memory.link(Vm::of(&new).ok_or(EIO)?)
    }

    fn check(&self, cx: &mut UnsealCx<'_>, _compatible: &[u8], record: &Record) -> Result {
        let (_, _, vm_name) = read_state(record)?;
        cx.needs("its VM", vm_name)
    }

    fn lend(&self, file: &File) {
        if let Some(memory) = object::GuestMemfd::of(file) {
            memory.use_all();
        }
    }

    fn borrow(&self, cx: &mut TakeCx<'_>, _compatible: &[u8], record: &Record) -> Result<FileRef> {
        let (size, flags, _) = read_state(record)?;
        if flags & abi_kvm::MAPPABLE != abi_kvm::MAPPABLE {
            // The boat's file is used by mapping it, which the host's does not allow.
            if ratelimit::may_log() {
                pr_warn!(
                    "{} cannot be lent: create the guest_memfd with GUEST_MEMFD_FLAG_MMAP\n",
                    cx.name()
                );
            }
            return Err(EOPNOTSUPP);
        }
        lent::create(c"guest_memfd", size, true, record.extents(), record.kept()?)
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
        // A new file, or the one of an earlier attempt, linked to this VM.
        let file = match &progress.file {
            Some(file) => object::GuestMemfd::of(file).ok_or(EIO)?.link(vm)?,
            None => object::create(vm, size, flags)?,
        };
        progress.file = Some(file.clone());
        let memory = object::GuestMemfd::of(&file).ok_or(EIO)?;
        progress.give(record, |runs| match leaving::go_on() {
            Ok(()) => memory.add(runs),
            Err(err) => runs.refused(err),
        })?;
        Ok(file)
    }
}

/// Size, flags and name of the VM of a guest_memfd, whose extents must cover its size.
fn read_state(record: &Record) -> Result<(u64, u64, &[u8])> {
    let saved = abi_kvm::GuestMemfd::decode(record.data()).map_err(|_| EIO)?;
    if record.pages() != saved.size / PAGE_SIZE as u64 || !record.is_of_single_pages() {
        return Err(EIO);
    }
    Ok((saved.size, saved.flags, saved.vm))
}

/// Fills the holes of the file.
fn fill(cx: &mut SealCx<'_>, memory: object::GuestMemfd<'_>) -> Result {
    let pages = file::size(cx.file) / PAGE_SIZE as u64;
    let mut index = 0;
    while index < pages {
        leaving::go_on()?;
        let mut step = Step::default();
        let filled = memory.fill(index, BATCH.min(pages - index), &mut step);
        filled.map_err(|err| match err {
            ENOMEM => cx.ran_out(index, room::release(cx.file)),
            _ => err,
        })?;
        room::taken(cx.file, step.taken);
        index += BATCH;
    }
    Ok(())
}

/// Fills what is left and lets no page be removed.
fn freeze(cx: &SealCx<'_>, memory: object::GuestMemfd<'_>) -> Result {
    memory.freeze().map_err(|err| match err {
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

fn write_folios(
    cx: &SealCx<'_>,
    memory: object::GuestMemfd<'_>,
    pages: u64,
    record: &mut Record,
) -> Result {
    let mut index = 0;
    while index < pages {
        leaving::go_on()?;
        let folio = memory.folio(index).map_err(|err| match err {
            EHWPOISON => cx.is_poisoned(index),
            _ => err,
        })?;
        record.filled |= folio.unused;
        record.push(folio.pfn, folio.order)?;
        index = folio.next;
    }
    Ok(())
}
