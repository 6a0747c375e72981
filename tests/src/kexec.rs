//! Loads the next kernel, to be entered by a reboot.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use crate::plan::{NEXT_INITRAMFS, NEXT_KERNEL};

/// Loads the next stage's kernel and initramfs.
pub fn load_next(cmdline: &str) -> Result<()> {
    let kernel = File::open(NEXT_KERNEL).context("Open the next kernel")?;
    let initramfs = File::open(NEXT_INITRAMFS).context("Open the next initramfs")?;
    load(&kernel, &initramfs, cmdline)
}

/// Loads `kernel` with `initramfs` and `cmdline`, by kexec_file_load(2).
pub fn load(kernel: &File, initramfs: &File, cmdline: &str) -> Result<()> {
    let cmdline = CString::new(cmdline)?;
    // SAFETY: both descriptors are open, and the length is that of the string including its NUL.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initramfs.as_raw_fd(),
            cmdline.as_bytes_with_nul().len(),
            cmdline.as_ptr(),
            0_u64,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("kexec_file_load"),
    }
}
