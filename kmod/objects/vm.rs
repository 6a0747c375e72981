// SPDX-License-Identifier: GPL-2.0

//! A KVM VM.

use crate::ffi;
use crate::file::{
    self,
    FileRef, //
};
use core::marker::PhantomData;
use kernel::{
    fs::File,
    prelude::*,
    str::CStr, //
};

/// The VM behind a file, or the one that a guest_memfd belongs to.
///
/// # Invariants
///
/// `kvm` is a `struct kvm` that lives at least as long as the file that `'a` borrows.
#[derive(Clone, Copy)]
pub(crate) struct Vm<'a> {
    kvm: *mut c_void,
    _file: PhantomData<&'a File>,
}

impl<'a> Vm<'a> {
    /// The VM behind `file`, if it is one.
    pub(crate) fn of(file: &'a File) -> Option<Vm<'a>> {
        // SAFETY: `file` is a live file.
        let kvm = unsafe { ffi::fdbox_shim_vm_of(file.as_ptr()) };
        // SAFETY: The file holds its VM.
        (!kvm.is_null()).then(|| unsafe { Vm::from_raw(kvm) })
    }

    /// # Safety
    ///
    /// `kvm` is a `struct kvm`, held by a file that lives as long as `'a`.
    pub(super) unsafe fn from_raw(kvm: *mut c_void) -> Vm<'a> {
        // INVARIANT: By the safety requirements of this function.
        Vm {
            kvm,
            _file: PhantomData,
        }
    }

    /// Its address, for calls of KVM.
    pub(super) fn as_ptr(self) -> *mut c_void {
        self.kvm
    }

    /// Its address, for comparison.
    pub(crate) fn address(self) -> usize {
        self.kvm as usize
    }

    /// Whether KVM serves the current task for it.
    pub(crate) fn is_mine(self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_vm_is_mine(self.kvm) }
    }

    /// Whether the process that created it is gone, so that KVM serves no process for it.
    pub(crate) fn is_left(self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_vm_is_left(self.kvm) }
    }

    /// `KVM_X86_*_VM`.
    pub(crate) fn vm_type(self) -> u64 {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_vm_type(self.kvm) }
    }

    /// What makes its memory or its state inaccessible to the host, if anything does.
    pub(crate) fn encrypted(self) -> Option<&'static CStr> {
        // SAFETY: By the type invariants.
        let what = unsafe { ffi::fdbox_shim_vm_encrypted(self.kvm) };
        // SAFETY: The function returns NULL or a string constant.
        (!what.is_null()).then(|| unsafe { CStr::from_char_ptr(what) })
    }
}

/// What this kernel lacks to create and recognise VMs.
pub(crate) fn lacks() -> ffi::Lacks {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_kvm_vm_lacks() }
}

/// Creates a VM for the current task. `fd` is the number that its descriptor will have, after which
/// KVM names it.
pub(crate) fn create(vm_type: u64, fd: u32) -> Result<FileRef> {
    // SAFETY: No precondition; the result is a file that we own, or an error.
    unsafe { file::from_c(ffi::fdbox_shim_vm_create(vm_type, fd)) }
}
