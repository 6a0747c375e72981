// SPDX-License-Identifier: GPL-2.0

//! The functions of `include/linux/fdbox.h` that a driver's callbacks call.

use super::driver::Call;
use crate::ffi::DriverFd;
use crate::file;
use crate::objects::folios;
use crate::seal_cx::Reason;
use kernel::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    str::CStr, //
};

/// `fdbox_fd_file()`.
///
/// # Safety
///
/// As [`Call::from_fd`].
#[no_mangle]
unsafe extern "C" fn fdbox_rs_fd_file(fd: *mut DriverFd) -> *mut bindings::file {
    // SAFETY: By the safety requirements of this function.
    let call = unsafe { Call::from_fd(fd) };
    call.file()
        .map_or(core::ptr::null_mut(), |file| file.as_ptr())
}

crate::ffi::check_export!(fdbox_rs_fd_file);

/// `fdbox_fd_needs()`.
///
/// # Safety
///
/// As [`Call::from_fd`]; `file` is held by the caller and `what` is a NUL-terminated string.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_fd_needs(
    fd: *mut DriverFd,
    file: *mut bindings::file,
    what: *const c_char,
) -> c_int {
    // SAFETY: By the safety requirements of this function.
    let Call::Seal(cx) = (unsafe { Call::from_fd(fd) }) else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the safety requirements of this function.
    let (file, what) = unsafe { (file::from_borrowed(file), CStr::from_char_ptr(what)) };
    if cx.name_of(file::address(&file)).is_some() {
        return 0;
    }
    let what = kernel::str::BStr::from_bytes(what.to_bytes());
    cx.refuse(
        ENOENT,
        Reason::MissingDependency,
        fmt!("{} is not in the box; put it in", what),
    )
    .to_errno()
}

crate::ffi::check_export!(fdbox_rs_fd_needs);

/// `fdbox_fd_refuse()`.
///
/// # Safety
///
/// As [`Call::from_fd`]; `why` is a NUL-terminated string.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_fd_refuse(
    fd: *mut DriverFd,
    err: c_int,
    why: *const c_char,
) -> c_int {
    if to_result(err).is_ok() {
        return EINVAL.to_errno();
    }
    // SAFETY: By the safety requirements of this function.
    let (call, why) = unsafe { (Call::from_fd(fd), CStr::from_char_ptr(why)) };
    call.refuse(Error::from_errno(err), why).to_errno()
}

crate::ffi::check_export!(fdbox_rs_fd_refuse);

/// `fdbox_fd_name()`.
///
/// # Safety
///
/// As [`Call::from_fd`]; `file` is held by the caller, `out` is valid for writing a name.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_fd_name(
    fd: *mut DriverFd,
    file: *mut bindings::file,
    out: *mut c_char,
) -> c_int {
    // SAFETY: By the safety requirements of this function.
    let (call, file) = unsafe { (Call::from_fd(fd), file::from_borrowed(file)) };
    from_result(|| {
        let name = call.name_of(&file)?.to_array();
        // SAFETY: By the safety requirements of this function.
        unsafe { core::ptr::copy_nonoverlapping(name.as_ptr(), out.cast(), name.len()) };
        Ok(0)
    })
}

crate::ffi::check_export!(fdbox_rs_fd_name);

/// `fdbox_fd_has()`.
///
/// # Safety
///
/// As [`Call::from_fd`]; `name` is a NUL-terminated string.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_fd_has(fd: *mut DriverFd, name: *const c_char) -> bool {
    // SAFETY: By the safety requirements of this function.
    let (call, name) = unsafe { (Call::from_fd(fd), CStr::from_char_ptr(name)) };
    match call {
        Call::Check(cx, _) => (cx.has)(name.to_bytes()),
        _ => false,
    }
}

crate::ffi::check_export!(fdbox_rs_fd_has);

/// `fdbox_fd_write()`.
///
/// # Safety
///
/// As [`Call::from_fd`]; `data` is valid for reading `len` bytes.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_fd_write(
    fd: *mut DriverFd,
    data: *const c_void,
    len: usize,
) -> c_int {
    // SAFETY: By the safety requirements of this function.
    let Call::Write(_, record) = (unsafe { Call::from_fd(fd) }) else {
        return EINVAL.to_errno();
    };
    if len == 0 {
        return 0;
    }
    // SAFETY: By the safety requirements of this function.
    let bytes = unsafe { core::slice::from_raw_parts(data.cast::<u8>(), len) };
    from_result(|| record.write(bytes).map(|()| 0))
}

crate::ffi::check_export!(fdbox_rs_fd_write);

/// `fdbox_fd_preserve()`.
///
/// # Safety
///
/// As [`Call::from_fd`]; the caller holds `folio`.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_fd_preserve(fd: *mut DriverFd, folio: *mut bindings::folio) -> c_int {
    // SAFETY: By the safety requirements of this function.
    let Call::Write(_, record) = (unsafe { Call::from_fd(fd) }) else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the safety requirements of this function.
    let (pfn, order, _) = unsafe { folios::span(folio) };
    from_result(|| record.push(pfn, order).map(|()| 0))
}

crate::ffi::check_export!(fdbox_rs_fd_preserve);

/// `fdbox_fd_data()`.
///
/// # Safety
///
/// As [`Call::from_fd`]; `len` is valid for writing.
#[no_mangle]
unsafe extern "C" fn fdbox_rs_fd_data(fd: *mut DriverFd, len: *mut usize) -> *const c_void {
    // SAFETY: By the safety requirements of this function.
    let data = match unsafe { Call::from_fd(fd) } {
        Call::Restore(record, _) | Call::Check(_, record) | Call::Saved(record) => record.data(),
        _ => &[],
    };
    // SAFETY: By the safety requirements of this function.
    unsafe { *len = data.len() };
    data.as_ptr().cast()
}

crate::ffi::check_export!(fdbox_rs_fd_data);

/// `fdbox_fd_take_folio()`.
///
/// # Safety
///
/// As [`Call::from_fd`].
#[no_mangle]
unsafe extern "C" fn fdbox_rs_fd_take_folio(fd: *mut DriverFd) -> *mut bindings::folio {
    // SAFETY: By the safety requirements of this function.
    let Call::Restore(record, progress) = (unsafe { Call::from_fd(fd) }) else {
        return core::ptr::null_mut();
    };
    match progress.give_folio(record) {
        Ok(Some(folio)) => folio.into_raw(),
        _ => core::ptr::null_mut(),
    }
}

crate::ffi::check_export!(fdbox_rs_fd_take_folio);
