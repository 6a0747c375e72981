//! Loads the next kernel.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

/// Loads `kernel` with `initramfs` and `cmdline`, to be entered by a reboot.
pub(crate) fn load(kernel: &str, initramfs: &str, cmdline: &str) -> Result<()> {
    let open = |path: &str| File::open(path).with_context(|| format!("Open {path}"));
    let (kernel, initramfs) = (open(kernel)?, open(initramfs)?);
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
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("kexec_file_load");
    }
    Ok(())
}
