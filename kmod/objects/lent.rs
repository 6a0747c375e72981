// SPDX-License-Identifier: GPL-2.0

//! A file of memory that belongs to the host, or of a device of the host's, in the boat.

use crate::ffi;
use crate::file::{
    self,
    FileRef, //
};
use kernel::{
    fs::File,
    prelude::*,
    str::{
        CStr,
        CStrExt, //
    },
};

/// A file of `size` bytes with the memory of these extents, which a lease keeps in place. `kept` has
/// the same memory in the order of its addresses.
pub(crate) fn create(
    name: &CStr,
    size: u64,
    writable: bool,
    extents: &[u64],
    kept: &[u64],
) -> Result<FileRef> {
    // SAFETY: The name has a NUL, the slices are valid for reading their lengths, and their extents
    // have been decoded once; we own the file.
    unsafe {
        file::from_c(ffi::fdbox_shim_lent_create(
            name.as_char_ptr().cast(),
            size,
            writable,
            extents.as_ptr(),
            extents.len(),
            kept.as_ptr(),
            kept.len(),
        ))
    }
}

/// A file of a device with these registers, which a lease lets the boat use.
pub(crate) fn create_device(registers: &ffi::Registers) -> Result<FileRef> {
    // SAFETY: `registers` is valid for reading; we own the file.
    unsafe { file::from_c(ffi::fdbox_shim_lent_device_create(registers)) }
}

/// Whether `file` is such a file.
pub(crate) fn is(file: &File) -> bool {
    // SAFETY: `file` is a live file.
    unsafe { ffi::fdbox_shim_is_lent(file.as_ptr()) }
}

/// Ends all use of what `file` is of, if it is such a file.
pub(crate) fn revoke(file: &File) {
    // SAFETY: `file` is a live file.
    unsafe { ffi::fdbox_shim_lent_revoke(file.as_ptr()) };
}
