// SPDX-License-Identifier: GPL-2.0

//! Kinds of other drivers: the adapter between [`Kind`] and `include/linux/fdbox.h`.

use crate::abi::COMPATIBLE_LEN;
use crate::ffi::{
    self,
    DriverFd,
    DriverKindDesc, //
};
use crate::file::{
    self,
    FileRef, //
};
use crate::kind::{
    Kind,
    Reason,
    SealCx,
    TakeCx, //
};
use crate::record::{
    Progress,
    Record, //
};
use kernel::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    fs::File,
    prelude::*,
    str::CStr, //
};

/// A driver's kind, in use.
///
/// # Invariants
///
/// `desc` and what it points at are valid as long as this object, which holds the driver's module.
pub(crate) struct DriverKind {
    desc: *const DriverKindDesc,
}

// SAFETY: The description is constant.
unsafe impl Send for DriverKind {}
// SAFETY: As above.
unsafe impl Sync for DriverKind {}

impl DriverKind {
    /// Holds the driver's module; `None` when it is going away or the description is incomplete.
    ///
    /// # Safety
    ///
    /// `desc` points at a valid description for the duration of the call.
    pub(crate) unsafe fn get(desc: *const DriverKindDesc) -> Option<DriverKind> {
        // SAFETY: Valid, by the safety requirements of this function.
        let found = unsafe { desc.as_ref() }?;
        if found.compatible.is_null() {
            return None;
        }
        // SAFETY: Not null, and a NUL-terminated string by the driver's contract.
        let compatible = unsafe { CStr::from_char_ptr(found.compatible) };
        let complete = (1..COMPATIBLE_LEN).contains(&compatible.to_bytes().len())
            && !found.fops.is_null()
            && !found.ops.is_null()
            && found.restore.is_some();
        // SAFETY: `owner` is a module or null, for a driver that is built in.
        let held = complete && unsafe { ffi::fdbox_shim_module_get(found.owner) };
        // INVARIANT: The module holds its static data, and we hold the module. Made only then: to
        // drop it is to let go of the module.
        held.then(|| DriverKind { desc })
    }

    fn desc(&self) -> &DriverKindDesc {
        // SAFETY: By the type invariants.
        unsafe { &*self.desc }
    }

    fn ops(&self) -> &ffi::FileOps {
        // SAFETY: By the type invariants; `get()` saw that it is not null.
        unsafe { &*self.desc().ops }
    }
}

impl Drop for DriverKind {
    fn drop(&mut self) {
        // SAFETY: Held since `get()`.
        unsafe { ffi::fdbox_shim_module_put(self.desc().owner) };
    }
}

/// A callback in progress: what a driver's `struct fdbox_fd` is.
enum Call<'a, 'b> {
    Seal(&'a mut SealCx<'b>),
    Write(&'a File, &'a mut Record),
    Unseal(&'a File),
    Restore(&'a Record, &'a mut Progress),
}

impl Call<'_, '_> {
    fn as_fd(&mut self) -> *mut DriverFd {
        core::ptr::from_mut(self).cast()
    }

    /// # Safety
    ///
    /// `fd` is what a callback got, and the callback has not returned.
    unsafe fn from_fd<'c>(fd: *mut DriverFd) -> &'c mut Call<'c, 'c> {
        // SAFETY: Callbacks get `as_fd()` only; the lifetime ends with the callback.
        unsafe { &mut *fd.cast() }
    }

    fn file(&self) -> Option<&File> {
        match self {
            Call::Seal(cx) => Some(cx.file),
            Call::Write(file, _) | Call::Unseal(file) => Some(file),
            Call::Restore(..) => None,
        }
    }
}

impl Kind for DriverKind {
    fn compatible(&self) -> &[u8] {
        // SAFETY: By the type invariants a NUL-terminated string.
        let compatible = unsafe { CStr::from_char_ptr(self.desc().compatible) };
        compatible.to_bytes()
    }

    fn matches(&self, file: &File) -> bool {
        file::operations(file) == self.desc().fops
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        let Some(seal) = self.ops().seal else {
            return Ok(());
        };
        let mut call = Call::Seal(cx);
        // SAFETY: The driver's callback, with a valid call.
        to_result(unsafe { seal(call.as_fd()) })
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        let Some(kho_write) = self.ops().kho_write else {
            return Err(EOPNOTSUPP);
        };
        let mut call = Call::Write(cx.file, record);
        // SAFETY: As above.
        to_result(unsafe { kho_write(call.as_fd()) })
    }

    fn unseal(&self, file: &File, _record: Option<&Record>) {
        if let Some(unseal) = self.ops().unseal {
            let mut call = Call::Unseal(file);
            // SAFETY: As above.
            unsafe { unseal(call.as_fd()) };
        }
    }

    fn restore(
        &self,
        _cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef> {
        let restore = self.desc().restore.ok_or(EOPNOTSUPP)?;
        let mut call = Call::Restore(record, progress);
        // SAFETY: As above; the file is ours.
        let file = unsafe { file::from_c(restore(call.as_fd())) }?;
        // Nobody else asks for what the driver has no use for.
        progress.discard(record);
        Ok(file)
    }
}

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
    if cx.has(&file) {
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
    let (mut pfn, mut order, mut next) = (0, 0, 0);
    // SAFETY: By the safety requirements of this function; the three places are valid for writing.
    unsafe { ffi::fdbox_shim_folio_span(folio, &mut pfn, &mut order, &mut next) };
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
        Call::Restore(record, _) => record.data(),
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
        // SAFETY: The folio is restored, and its reference becomes the driver's.
        Ok(Some(pfn)) => unsafe { ffi::fdbox_shim_folio_at(pfn) },
        _ => core::ptr::null_mut(),
    }
}
crate::ffi::check_export!(fdbox_rs_fd_take_folio);
