// SPDX-License-Identifier: GPL-2.0

//! Files, and what the calling task may do: safe wrappers.

use crate::ffi;
use kernel::{
    bindings,
    error::from_err_ptr,
    fs::{
        File,
        LocalFile, //
    },
    prelude::*,
    sync::aref::ARef,
};

/// A reference to an open file.
pub(crate) type FileRef = ARef<File>;

/// Takes over a file that a C function returned with a reference, or its error.
///
/// # Safety
///
/// `ptr` is an `ERR_PTR()` or a file with one reference that becomes the caller's.
pub(crate) unsafe fn from_c(ptr: *mut bindings::file) -> Result<FileRef> {
    let ptr = from_err_ptr(ptr)?;
    let ptr = core::ptr::NonNull::new(ptr).ok_or(EIO)?;
    // SAFETY: `File` is transparent over `struct file`, and by the contract of this function the
    // reference is ours to own.
    Ok(unsafe { ARef::from_raw(ptr.cast::<File>()) })
}

/// Takes a reference for `ptr`.
///
/// # Safety
///
/// `ptr` points at a file that somebody holds for the duration of the call, and no `fdget_pos()`
/// of the current task is active on it.
pub(crate) unsafe fn from_borrowed(ptr: *mut bindings::file) -> FileRef {
    // SAFETY: As promised by the caller.
    FileRef::from(unsafe { File::from_raw_file(ptr) })
}

/// The file behind descriptor `fd` of the current task.
pub(crate) fn fget(fd: u32) -> Result<FileRef> {
    let file = LocalFile::fget(fd)?;
    // SAFETY: We are in an ioctl, which uses `fdget()`, and no driver that gets this file calls
    // `fdget_pos()`.
    Ok(unsafe { LocalFile::assume_no_fdget_pos(file) })
}

/// Closes descriptor `fd` of the current task, as `close(2)` does.
pub(crate) fn close(fd: u32) {
    // SAFETY: Any number may be given; the current task's table is looked up under its lock. The
    // ioctl's own file is never closed here: it is of no kind that a box takes.
    unsafe { ffi::fdbox_shim_close_fd(fd) };
}

/// Whether the caller may use boxes.
pub(crate) fn capable() -> bool {
    // SAFETY: Reads the credentials of the current task.
    unsafe { ffi::fdbox_shim_capable() }
}

/// Whether two references are to the same open file.
pub(crate) fn same(a: &File, b: &File) -> bool {
    a.as_ptr() == b.as_ptr()
}

/// Size of the file behind `file` in bytes.
pub(crate) fn size(file: &File) -> u64 {
    // SAFETY: `file` is a live file; every file has an inode.
    unsafe { ffi::fdbox_shim_file_size(file.as_ptr()) }
}

/// The operations of `file`: what kind it is.
pub(crate) fn operations(file: &File) -> *const bindings::file_operations {
    // SAFETY: `file` is a live file.
    unsafe { ffi::fdbox_shim_fops(file.as_ptr()) }
}

/// Owner and mode of a device node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeOwner {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl NodeOwner {
    /// What a new box has.
    pub(crate) const ROOT: NodeOwner = NodeOwner {
        mode: 0o600,
        uid: 0,
        gid: 0,
    };

    /// That of the node `file` was opened through.
    pub(crate) fn of(file: &File) -> NodeOwner {
        let mut owner = NodeOwner::ROOT;
        // SAFETY: `file` is a live file, and the three places are valid for writing.
        unsafe {
            ffi::fdbox_shim_node_owner(
                file.as_ptr(),
                &mut owner.mode,
                &mut owner.uid,
                &mut owner.gid,
            )
        };
        owner
    }
}

/// The rwsem of a file's inode, held exclusively.
pub(crate) struct InodeLock<'a>(&'a File);

impl<'a> InodeLock<'a> {
    /// Sleeps until nobody else holds it.
    pub(crate) fn new(file: &'a File) -> Self {
        // SAFETY: `file` is a live file, its inode lives at least as long.
        unsafe { ffi::fdbox_shim_inode_lock(file.as_ptr()) };
        InodeLock(file)
    }
}

impl Drop for InodeLock<'_> {
    fn drop(&mut self) {
        // SAFETY: Locked in `new()`, by this task: the guard is not `Send`, for `File` borrows are
        // used on the spot only.
        unsafe { ffi::fdbox_shim_inode_unlock(self.0.as_ptr()) };
    }
}
