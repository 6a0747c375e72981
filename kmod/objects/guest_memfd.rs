// SPDX-License-Identifier: GPL-2.0

//! A guest_memfd.

use super::folios::{
    self,
    Outcome,
    Runs, //
};
use super::vm::Vm;
use crate::abi::Extent;
use crate::ffi;
use crate::file::{
    self,
    FileRef, //
};
use core::ptr::null_mut;
use kernel::{
    error::to_result,
    fs::File,
    prelude::*, //
};

/// An open guest_memfd.
///
/// # Invariants
///
/// The file is a guest_memfd, and `vm` is its VM, which it holds.
#[derive(Clone, Copy)]
pub(crate) struct GuestMemfd<'a> {
    file: &'a File,
    vm: Vm<'a>,
}

/// A folio of a frozen guest_memfd.
pub(crate) struct Seen {
    pub(crate) pfn: u64,
    pub(crate) order: u32,
    /// Number of the page after it.
    pub(crate) next: u64,
    /// Whether it was never used.
    pub(crate) unused: bool,
}

/// What this kernel lacks to create and recognise guest_memfds.
pub(crate) fn lacks() -> ffi::Lacks {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_gmem_lacks() }
}

/// Creates an empty one that belongs to `vm`.
pub(crate) fn create(vm: Vm<'_>, size: u64, flags: u64) -> Result<FileRef> {
    // SAFETY: By its type invariants the VM is alive; the result is a file that we own, or an
    // error.
    unsafe { file::from_c(ffi::fdbox_shim_gmem_create(vm.as_ptr(), size, flags)) }
}

impl<'a> GuestMemfd<'a> {
    /// The guest_memfd behind `file`, if it is one.
    pub(crate) fn of(file: &'a File) -> Option<GuestMemfd<'a>> {
        // SAFETY: `file` is a live file.
        let kvm = unsafe { ffi::fdbox_shim_gmem_vm_of(file.as_ptr()) };
        // INVARIANT: A file with such a VM is a guest_memfd, which holds its VM.
        (!kvm.is_null()).then(|| GuestMemfd {
            file,
            // SAFETY: As above.
            vm: unsafe { Vm::from_raw(kvm) },
        })
    }

    /// The VM that it belongs to.
    pub(crate) fn vm(self) -> Vm<'a> {
        self.vm
    }

    /// The flags that it was created with.
    pub(crate) fn flags(self) -> u64 {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_gmem_flags(self.file.as_ptr()) }
    }

    /// Fills the holes among `pages` pages from number `index` on; `step` is set to what that took.
    pub(crate) fn fill(self, index: u64, pages: u64, step: &mut ffi::Step) -> Result {
        // SAFETY: By the type invariants; `step` is valid for writing.
        to_result(unsafe { ffi::fdbox_shim_gmem_fill(self.file.as_ptr(), index, pages, step) })
    }

    /// Fills what is left and prevents removal of pages. Fails with `EBUSY` if it is already
    /// frozen, with `EOPNOTSUPP` if it is not fully shared.
    pub(crate) fn freeze(self) -> Result {
        // SAFETY: By the type invariants.
        to_result(unsafe { ffi::fdbox_shim_gmem_freeze(self.file.as_ptr()) })
    }

    /// The inverse of [`GuestMemfd::freeze`].
    pub(crate) fn thaw(self) {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_gmem_thaw(self.file.as_ptr()) };
    }

    /// Has no page count as unused or clean, since another kernel may write to it. The file is frozen.
    pub(crate) fn use_all(self) {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_use_pages(self.file.as_ptr()) };
    }

    /// Frees the memory of filled holes that was not used.
    pub(crate) fn give_back(self) {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_gmem_give_back(self.file.as_ptr()) };
    }

    /// The folio of page `index`, with content. Fails with `EHWPOISON` if it is poisoned, with `ENOENT`
    /// if there is none; a frozen file has no holes.
    pub(crate) fn folio(self, index: u64) -> Result<Seen> {
        let (mut folio, mut unused) = (null_mut(), false);
        // SAFETY: By the type invariants; both pointers are valid for writing.
        to_result(unsafe {
            ffi::fdbox_shim_gmem_folio(self.file.as_ptr(), index, &mut folio, &mut unused)
        })?;
        // SAFETY: The function has taken a reference for us.
        let (pfn, order, next) = unsafe { folios::span(folio) };
        // SAFETY: The reference is ours; the page cache has its own.
        unsafe {
            folios::put(&Extent {
                pfn,
                folios: 1,
                order,
                down: false,
            })
        };
        Ok(Seen {
            pfn,
            order,
            next,
            unused,
        })
    }

    /// Creates a file with the same memory that belongs to `vm`.
    pub(crate) fn link(self, vm: Vm<'_>) -> Result<FileRef> {
        // SAFETY: By the type invariants of both; the result is a file that we own, or an error.
        unsafe { file::from_c(ffi::fdbox_shim_gmem_link(self.file.as_ptr(), vm.as_ptr())) }
    }

    /// Adds folios to the page cache, which takes over their references.
    pub(crate) fn add(self, runs: Runs<'_>) -> Outcome {
        let (file, index) = (self.file.as_ptr(), runs.index());
        let (first, nr) = (runs.as_slice().as_ptr(), runs.as_slice().len() as c_uint);
        // SAFETY: By the type invariants; the runs are valid for reading, are of one order and one
        // node, and have a reference to each folio.
        let added = unsafe { ffi::fdbox_shim_gmem_add(file, index, first, nr) };
        // SAFETY: The file now owns this many references.
        unsafe { runs.given(added) }
    }
}
