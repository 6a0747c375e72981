//! kexec_file_load.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `KEXEC_FILE_UNLOAD` of `<linux/kexec.h>`.
const KEXEC_FILE_UNLOAD: libc::c_ulong = 1;
/// `KEXEC_FILE_NO_INITRAMFS` of `<linux/kexec.h>`.
const KEXEC_FILE_NO_INITRAMFS: libc::c_ulong = 4;

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

pub(crate) fn kexec_file_load(
    kernel: BorrowedFd<'_>,
    initramfs: Option<BorrowedFd<'_>>,
    cmdline: &CString,
) -> Result<(), Errno> {
    let flags = if initramfs.is_some() {
        0
    } else {
        KEXEC_FILE_NO_INITRAMFS
    };
    let cmdline = cmdline.as_bytes_with_nul();
    // SAFETY: kexec_file_load(kernel_fd, initrd_fd, cmdline_len, cmdline, flags) takes integers and
    // one pointer, which it only reads, to `cmdline_len` bytes that end in a NUL and live until the
    // call returns.
    let status = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            libc::c_long::from(kernel.as_raw_fd()),
            libc::c_long::from(initramfs.map_or(-1, |fd| fd.as_raw_fd())),
            cmdline.len() as libc::c_ulong,
            cmdline.as_ptr(),
            flags,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

pub(crate) fn kexec_file_unload() -> Result<(), Errno> {
    // SAFETY: with KEXEC_FILE_UNLOAD the kernel ignores the descriptors and
    // reads nothing behind the null pointer, whose length is 0.
    let status = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            -1 as libc::c_long,
            -1 as libc::c_long,
            0 as libc::c_ulong,
            std::ptr::null::<libc::c_char>(),
            KEXEC_FILE_UNLOAD,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}
