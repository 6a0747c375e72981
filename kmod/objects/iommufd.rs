// SPDX-License-Identifier: GPL-2.0

//! An iommufd context.

use crate::ffi::{
    self,
    IommufdMap,
    IommufdVisitor, //
};
use crate::file::{
    self,
    FileRef, //
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    fs::File,
    prelude::*,
    str::CStr, //
};

/// The iommufd behind a file, or the one that a device is bound to.
///
/// # Invariants
///
/// `ctx` is a `struct iommufd_ctx` that lives at least as long as the file that `'a` borrows.
#[derive(Clone, Copy)]
pub(crate) struct Iommufd<'a> {
    ctx: *mut c_void,
    _file: PhantomData<&'a File>,
}

/// A file mapping to be created.
pub(crate) struct NewMapping<'a> {
    pub(crate) ioas: u32,
    pub(crate) prot: u32,
    pub(crate) iova: u64,
    pub(crate) length: u64,
    pub(crate) start: u64,
    pub(crate) file: &'a File,
}

/// An existing file mapping.
///
/// # Invariants
///
/// The iommufd, which is frozen, holds the file.
pub(crate) struct Mapping(IommufdMap);

impl Mapping {
    /// Id of the IOAS.
    pub(crate) fn ioas(&self) -> u32 {
        self.0.ioas
    }

    /// `PROT_*` of the handover ABI.
    pub(crate) fn prot(&self) -> u32 {
        self.0.prot
    }

    /// The address at which devices see it.
    pub(crate) fn iova(&self) -> u64 {
        self.0.iova
    }

    /// Its length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.0.length
    }

    /// Its offset in the file.
    pub(crate) fn start(&self) -> u64 {
        self.0.start
    }

    /// Whether it maps a memfd.
    pub(crate) fn is_of_memfd(&self) -> bool {
        // SAFETY: By the type invariants the file is held.
        unsafe { ffi::fdbox_shim_is_memfd(self.0.file) || ffi::fdbox_shim_is_hugetlb(self.0.file) }
    }

    /// Address of the inode of the file, for comparison.
    pub(crate) fn inode(&self) -> usize {
        // SAFETY: By the type invariants the file is held.
        unsafe { ffi::fdbox_shim_inode(self.0.file) as usize }
    }
}

/// An item in an iommufd.
pub(crate) enum Seen {
    Ioas(u32),
    Mapping(Mapping),
    /// Another object: its id, and its kind.
    Other(u32, &'static CStr),
}

impl<'a> Iommufd<'a> {
    /// The iommufd behind `file`, if it is one.
    pub(crate) fn of(file: &'a File) -> Option<Iommufd<'a>> {
        // SAFETY: `file` is a live file.
        let ctx = unsafe { ffi::fdbox_shim_iommufd_of(file.as_ptr()) };
        // SAFETY: The file holds its iommufd.
        (!ctx.is_null()).then(|| unsafe { Iommufd::from_raw(ctx) })
    }

    /// # Safety
    ///
    /// `ctx` is a `struct iommufd_ctx`, held by a file that lives as long as `'a`.
    pub(super) unsafe fn from_raw(ctx: *mut c_void) -> Iommufd<'a> {
        // INVARIANT: By the safety requirements of this function.
        Iommufd {
            ctx,
            _file: PhantomData,
        }
    }

    /// Its address, for comparison.
    pub(crate) fn address(self) -> usize {
        self.ctx as usize
    }

    /// Its address, for calls of iommufd.
    pub(super) fn as_ptr(self) -> *mut c_void {
        self.ctx
    }

    /// Refuses every change until it is thawed; `EBUSY` if it is already frozen.
    pub(crate) fn freeze(self) -> Result {
        // SAFETY: By the type invariants.
        to_result(unsafe { ffi::fdbox_shim_iommufd_freeze(self.ctx) })
    }

    /// The inverse of [`Iommufd::freeze`].
    pub(crate) fn thaw(self) {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_iommufd_thaw(self.ctx) };
    }

    /// Calls `see` with each item in it; it must be frozen.
    pub(crate) fn contents(self, mut see: impl FnMut(Seen) -> Result) -> Result {
        let visitor = IommufdVisitor {
            ioas: Some(see_ioas),
            map: Some(see_map),
            other: Some(see_other),
        };
        let mut see: &mut dyn FnMut(Seen) -> Result = &mut see;
        let data = core::ptr::from_mut(&mut see).cast();
        // SAFETY: By the type invariants; the callbacks get `see`, which outlives the call.
        to_result(unsafe { ffi::fdbox_shim_iommufd_visit(self.ctx, &visitor, data) })
    }

    /// Creates an IOAS with this id.
    pub(crate) fn add_ioas(self, id: u32) -> Result {
        // SAFETY: By the type invariants.
        to_result(unsafe { ffi::fdbox_shim_iommufd_add_ioas(self.ctx, id) })
    }

    /// Creates a mapping, which takes a reference to its file.
    pub(crate) fn add_mapping(self, mapping: &NewMapping<'_>) -> Result {
        let map = IommufdMap {
            ioas: mapping.ioas,
            prot: mapping.prot,
            iova: mapping.iova,
            length: mapping.length,
            start: mapping.start,
            file: mapping.file.as_ptr(),
        };
        // SAFETY: By the type invariants; the caller holds the file.
        to_result(unsafe { ffi::fdbox_shim_iommufd_add_map(self.ctx, &map) })
    }
}

/// What this kernel lacks to create and recognise them.
pub(crate) fn lacks() -> ffi::Lacks {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_iommufd_lacks() }
}

/// Creates an empty one.
pub(crate) fn create() -> Result<FileRef> {
    // SAFETY: The result is a file that we own, or an error.
    unsafe { file::from_c(ffi::fdbox_shim_iommufd_create()) }
}

/// # Safety
///
/// `data` was created by [`Iommufd::contents`], which has not returned yet.
unsafe fn see(data: *mut c_void, seen: Seen) -> c_int {
    // SAFETY: By the safety requirements of this function; nobody else borrows it during the visit.
    let see = unsafe { &mut *data.cast::<&mut dyn FnMut(Seen) -> Result>() };
    match see(seen) {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}

/// # Safety
///
/// As [`see`].
unsafe extern "C" fn see_ioas(data: *mut c_void, id: u32) -> c_int {
    // SAFETY: By the safety requirements of this function.
    unsafe { see(data, Seen::Ioas(id)) }
}

/// # Safety
///
/// As [`see`]; `map` is valid for reading, and its file is held as long as the iommufd is frozen.
unsafe extern "C" fn see_map(data: *mut c_void, map: *const IommufdMap) -> c_int {
    // INVARIANT: By the safety requirements of this function.
    // SAFETY: The same.
    unsafe { see(data, Seen::Mapping(Mapping(*map))) }
}

/// # Safety
///
/// As [`see`]; `what` is a string constant.
unsafe extern "C" fn see_other(data: *mut c_void, id: u32, what: *const c_char) -> c_int {
    // SAFETY: By the safety requirements of this function.
    unsafe { see(data, Seen::Other(id, CStr::from_char_ptr(what))) }
}
