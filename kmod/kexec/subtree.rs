// SPDX-License-Identifier: GPL-2.0

//! What the last kernel left in KHO by name.

use crate::ffi;
use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    prelude::*,
    str::CStrExt, //
};

/// What the last kernel left under `name`, and its length; it belongs to KHO. Fails if KHO has an entry of
/// that name that cannot be read.
pub(crate) fn find(name: &core::ffi::CStr) -> Result<Option<(NonNull<u8>, usize)>> {
    let mut len = 0;
    // SAFETY: The name is a NUL-terminated string, `len` is valid for writing.
    let page = unsafe { ffi::fdbox_shim_kho_subtree(name.as_char_ptr(), &mut len) };
    let page = NonNull::new(from_err_ptr(page.cast_mut())?.cast());
    Ok(page.map(|page| (page, len)))
}
