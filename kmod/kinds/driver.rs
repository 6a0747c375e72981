// SPDX-License-Identifier: GPL-2.0

//! Kinds of other drivers: the adapter between [`Kind`] and the callbacks of `include/linux/fdbox.h`.
//! The functions that callbacks call are in `driver_api`.

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
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::Kind;
use crate::name::Name;
use crate::seal_cx::{
    Reason,
    SealCx, //
};
use crate::take_cx::TakeCx;
use crate::unseal_cx::{
    LostReason,
    UnsealCx, //
};
use kernel::{
    error::to_result,
    fs::File,
    prelude::*,
    str::CStr, //
};

/// A driver's kind, in use.
///
/// # Invariants
///
/// `desc` and what it points to are valid as long as this object, which holds the driver's module.
pub(crate) struct DriverKind {
    desc: *const DriverKindDesc,
}

// SAFETY: The description is constant.
unsafe impl Send for DriverKind {}
// SAFETY: As above.
unsafe impl Sync for DriverKind {}

impl DriverKind {
    /// Holds the driver's module; `None` if it is going away or the description is incomplete.
    ///
    /// # Safety
    ///
    /// `desc` points to a valid description for the duration of the call.
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
        // INVARIANT: The module holds its static data, and we hold the module. Only created in that
        // case, because dropping it releases the module.
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

/// A callback in progress: this is what a driver's `struct fdbox_fd` points to.
pub(super) enum Call<'a, 'b> {
    Seal(&'a mut SealCx<'b>),
    Write(&'a SealCx<'b>, &'a mut Record),
    /// UNSEAL, for a file.
    Unseal(&'a mut UnsealCx<'b>, &'a File),
    /// Callbacks for a file that need nothing else.
    File(&'a File),
    /// UNSEAL, for saved state.
    Check(&'a mut UnsealCx<'b>, &'a Record),
    /// Callbacks for saved data that need nothing else.
    Saved(&'a Record),
    Restore(&'a Record, &'a mut Progress),
}

impl Call<'_, '_> {
    fn as_fd(&mut self) -> *mut DriverFd {
        core::ptr::from_mut(self).cast()
    }

    /// # Safety
    ///
    /// `fd` was passed to a callback that has not returned yet.
    pub(super) unsafe fn from_fd<'c>(fd: *mut DriverFd) -> &'c mut Call<'c, 'c> {
        // SAFETY: Callbacks get `as_fd()` only; the lifetime ends with the callback.
        unsafe { &mut *fd.cast() }
    }

    pub(super) fn file(&self) -> Option<&File> {
        match self {
            Call::Seal(cx) => Some(cx.file),
            Call::Write(cx, _) => Some(cx.file),
            Call::Unseal(_, file) | Call::File(file) => Some(file),
            Call::Check(..) | Call::Saved(_) | Call::Restore(..) => None,
        }
    }

    /// Name of a file in the box.
    pub(super) fn name_of(&self, file: &File) -> Result<&Name> {
        let cx = match self {
            Call::Seal(cx) => &**cx,
            Call::Write(cx, _) => cx,
            _ => return Err(EINVAL),
        };
        if file::same(cx.file, file) {
            return Ok(&cx.slots[cx.at].name);
        }
        cx.name_of(file::address(file)).ok_or(ENOENT)
    }

    /// Records why the callback is about to fail.
    pub(super) fn refuse(&mut self, error: Error, why: &CStr) -> Error {
        let why = kernel::str::BStr::from_bytes(why.to_bytes());
        match self {
            Call::Seal(cx) => cx.refuse(error, Reason::of(error), fmt!("{}", why)),
            Call::Unseal(cx, _) | Call::Check(cx, _) => {
                cx.lost(error, LostReason::Refused, fmt!("{}", why))
            }
            _ => EINVAL,
        }
    }
}

/// The result of a driver's check: any error is a refusal.
fn answer(cx: &mut UnsealCx<'_>, result: Result) -> Result {
    result.map_err(|err| match cx.refusal {
        Some(_) => err,
        None => cx.lost(err, LostReason::Refused, fmt!("its driver refuses")),
    })
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

    fn bytes(&self, file: &File) -> u64 {
        let Some(bytes) = self.ops().bytes else {
            return 0;
        };
        // SAFETY: The driver's callback, with a live file.
        unsafe { bytes(file.as_ptr()) }
    }

    fn seals_last(&self) -> bool {
        self.ops().seals_last
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
        let mut call = Call::Write(cx, record);
        // SAFETY: As above.
        to_result(unsafe { kho_write(call.as_fd()) })
    }

    fn may_unseal(&self, cx: &mut UnsealCx<'_>, file: &File) -> Result {
        let Some(unseal) = self.ops().unseal else {
            return Ok(());
        };
        let mut call = Call::Unseal(cx, file);
        // SAFETY: As above.
        let result = to_result(unsafe { unseal(call.as_fd()) });
        answer(cx, result)
    }

    fn unseal(&self, file: &File, _record: Option<&Record>) {
        if let Some(thaw) = self.ops().thaw {
            let mut call = Call::File(file);
            // SAFETY: As above.
            unsafe { thaw(call.as_fd()) };
        }
    }

    fn take(&self, _cx: &mut TakeCx<'_>, file: &FileRef) -> Result<FileRef> {
        let Some(take) = self.ops().take else {
            return Ok(file.clone());
        };
        let mut call = Call::File(file);
        // SAFETY: As above; the file is ours.
        unsafe { file::from_c(take(call.as_fd())) }
    }

    fn check(&self, cx: &mut UnsealCx<'_>, _compatible: &[u8], record: &Record) -> Result {
        let Some(check) = self.desc().check else {
            return Ok(());
        };
        let mut call = Call::Check(cx, record);
        // SAFETY: As above.
        let result = to_result(unsafe { check(call.as_fd()) });
        answer(cx, result)
    }

    fn carry(&self, record: &Record) -> Result {
        let Some(carry) = self.desc().carry else {
            return Ok(());
        };
        let mut call = Call::Saved(record);
        // SAFETY: As above.
        to_result(unsafe { carry(call.as_fd()) })
    }

    fn uncarry(&self, record: &Record) {
        if let Some(uncarry) = self.desc().uncarry {
            let mut call = Call::Saved(record);
            // SAFETY: As above.
            unsafe { uncarry(call.as_fd()) };
        }
    }

    fn discard(&self, record: &Record) {
        if let Some(discard) = self.desc().discard {
            let mut call = Call::Saved(record);
            // SAFETY: As above.
            unsafe { discard(call.as_fd()) };
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
        // Frees the folios that the driver did not take.
        progress.discard(record);
        Ok(file)
    }
}
