// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for files and for the rights of the calling task.

use crate::ffi;
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::{
        File,
        LocalFile, //
    },
    prelude::*,
    str::{
        CStr,
        CStrExt, //
    },
    sync::aref::ARef,
    types::NotThreadSafe, //
};

/// A reference to an open file.
pub(crate) type FileRef = ARef<File>;

/// Takes over a file that a C function returned with a reference, or its error.
///
/// # Safety
///
/// `ptr` is an `ERR_PTR()` or a file with one reference, which then belongs to the caller.
pub(crate) unsafe fn from_c(ptr: *mut bindings::file) -> Result<FileRef> {
    let ptr = from_err_ptr(ptr)?;
    let ptr = core::ptr::NonNull::new(ptr).ok_or(EIO)?;
    // SAFETY: `File` is transparent over `struct file`, and by the safety requirements of this
    // function we own the reference.
    Ok(unsafe { ARef::from_raw(ptr.cast::<File>()) })
}

/// Takes a reference for `ptr`.
///
/// # Safety
///
/// `ptr` points at a file that somebody holds for the duration of the call, and no `fdget_pos()`
/// of the current task is active on it.
pub(crate) unsafe fn from_borrowed(ptr: *mut bindings::file) -> FileRef {
    // SAFETY: By the safety requirements of this function.
    FileRef::from(unsafe { File::from_raw_file(ptr) })
}

/// The file behind descriptor `fd` of the current task.
pub(crate) fn fget(fd: u32) -> Result<FileRef> {
    let file = LocalFile::fget(fd)?;
    // SAFETY: We are in an ioctl, which uses `fdget()`, and no driver that gets this file calls
    // `fdget_pos()`.
    Ok(unsafe { LocalFile::assume_no_fdget_pos(file) })
}

/// Closes descriptor `fd` of the current task, as `close(2)` does, if it still refers to `file`: another
/// thread may have closed it and opened another file with its number.
pub(crate) fn close(fd: u32, file: &File) {
    // SAFETY: Any number is allowed; the current task's table is looked up under its lock. The
    // ioctl's own file is never closed here, because a box does not accept its kind.
    unsafe { ffi::fdbox_shim_close_fd(fd, file.as_ptr()) };
}

/// Whether the caller may create and delete boxes.
pub(crate) fn capable() -> bool {
    // SAFETY: Reads the credentials of the current task.
    unsafe { ffi::fdbox_shim_capable() }
}

/// Whether the task that opened `file` had the right to use boxes.
pub(crate) fn opener_capable(file: &File) -> bool {
    // SAFETY: `file` is a live file; its credentials never change.
    unsafe { ffi::fdbox_shim_opener_capable(file.as_ptr()) }
}

/// Gives the current task a descriptor of `file`, close-on-exec, unless the LSM refuses it.
pub(crate) fn receive(file: &File) -> Result<u32> {
    // SAFETY: `file` is a live file; the descriptor gets a reference of its own.
    let number = unsafe { ffi::fdbox_shim_receive_fd(file.as_ptr()) };
    to_result(number.min(0))?;
    Ok(number as u32)
}

/// Whether `file` is open for reading and for writing.
pub(crate) fn is_read_and_write(file: &File) -> bool {
    // SAFETY: `file` is a live file.
    unsafe { ffi::fdbox_shim_is_read_write(file.as_ptr()) }
}

/// Whether two references are to the same open file.
pub(crate) fn same(a: &File, b: &File) -> bool {
    a.as_ptr() == b.as_ptr()
}

/// Address of the open file, for comparison.
pub(crate) fn address(file: &File) -> usize {
    file.as_ptr() as usize
}

/// Address of its inode, for comparison.
pub(crate) fn inode(file: &File) -> usize {
    // SAFETY: `file` is a live file.
    unsafe { ffi::fdbox_shim_inode(file.as_ptr()) as usize }
}

/// Size of the file behind `file` in bytes.
pub(crate) fn size(file: &File) -> u64 {
    // SAFETY: `file` is a live file; every file has an inode.
    unsafe { ffi::fdbox_shim_file_size(file.as_ptr()) }
}

/// Whether `/proc` shows `name` for `file`.
pub(crate) fn is_called(file: &File, name: &CStr) -> bool {
    // SAFETY: `file` is a live file, `name` a NUL-terminated string.
    unsafe { ffi::fdbox_shim_is_named(file.as_ptr(), name.as_char_ptr()) }
}

/// The operations of `file`, by which kinds of drivers are recognised.
pub(crate) fn operations(file: &File) -> *const bindings::file_operations {
    // SAFETY: `file` is a live file.
    unsafe { ffi::fdbox_shim_fops(file.as_ptr()) }
}

/// An open file of a box.
///
/// # Invariants
///
/// The file was opened by `fdbox_open()` of node.c.
pub(crate) struct BoxFile<'a>(&'a File);

impl<'a> BoxFile<'a> {
    /// # Safety
    ///
    /// `file` was opened by `fdbox_open()` of node.c.
    pub(crate) unsafe fn new(file: &'a File) -> Self {
        // INVARIANT: By the safety requirements of this function.
        BoxFile(file)
    }

    /// The node, which the file holds.
    pub(crate) fn node(&self) -> *mut ffi::Node {
        // SAFETY: By the type invariants.
        unsafe { ffi::fdbox_shim_node_of(self.0.as_ptr()) }
    }

    /// Whether the box may be used through this file, which depends on the rights of its opener.
    pub(crate) fn allowed(&self) -> bool {
        opener_capable(self.0)
    }
}

/// The rwsem of a file's inode, held exclusively.
///
/// Anonymous inodes are not locked: nearly all anonymous files of the host share one, so that unrelated
/// files and boxes would wait for each other.
pub(crate) struct InodeLock<'a>(&'a File, NotThreadSafe);

impl<'a> InodeLock<'a> {
    /// Sleeps until it is free; fails with `EINTR` if the task is killed.
    pub(crate) fn new(file: &'a File) -> Result<Self> {
        // SAFETY: `file` is a live file, its inode lives at least as long.
        to_result(unsafe { ffi::fdbox_shim_inode_lock(file.as_ptr()) })?;
        Ok(InodeLock(file, NotThreadSafe))
    }
}

/// Does not compile if the guard is `Send`, because both implementations would apply then.
const _: () = {
    trait Sendable<Which> {
        const NOT: () = ();
    }
    impl<T> Sendable<()> for T {}
    impl<T: Send> Sendable<u8> for T {}
    <InodeLock<'static> as Sendable<_>>::NOT
};

impl Drop for InodeLock<'_> {
    fn drop(&mut self) {
        // SAFETY: Locked in `new()`, by this task: the guard is not `Send`.
        unsafe { ffi::fdbox_shim_inode_unlock(self.0.as_ptr()) };
    }
}
