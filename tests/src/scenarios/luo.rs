//! The part of LUO, the kernel's own live update, that is needed to preserve a memfd.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::io::Errno;

/// `_IO(0xBA, nr)`.
const CREATE_SESSION: u64 = 0xba00;
const PRESERVE_FD: u64 = 0xba40;

/// `struct liveupdate_ioctl_create_session`.
#[repr(C)]
struct CreateSession {
    size: u32,
    fd: i32,
    name: [u8; 64],
}

/// `struct liveupdate_session_preserve_fd`.
#[repr(C)]
struct PreserveFd {
    size: u32,
    fd: i32,
    token: u64,
}

/// A session: it preserves its files until it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    fd: OwnedFd,
    /// LUO supports one opener at a time.
    _device: File,
}

impl Session {
    pub(crate) fn create(name: &str) -> Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/liveupdate")?;
        let mut argument = CreateSession {
            size: size_of::<CreateSession>() as u32,
            fd: -1,
            name: [0; 64],
        };
        argument.name[..name.len()].copy_from_slice(name.as_bytes());
        let pointer: *mut CreateSession = &mut argument;
        // SAFETY: the pointer refers to the struct that the command reads and writes.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), CREATE_SESSION as _, pointer) };
        if result < 0 {
            return Err(std::io::Error::last_os_error()).context("Create a LUO session");
        }
        // SAFETY: the kernel has just created this descriptor for the caller.
        let fd = unsafe { OwnedFd::from_raw_fd(argument.fd) };
        Ok(Self {
            fd,
            _device: device,
        })
    }

    /// Preserves a file for the next kernel.
    pub(crate) fn preserve(&self, file: impl AsFd, token: u64) -> Result<(), Errno> {
        let fd = file.as_fd().as_raw_fd();
        let argument = PreserveFd {
            size: size_of::<PreserveFd>() as u32,
            fd,
            token,
        };
        let pointer: *const PreserveFd = &argument;
        // SAFETY: the pointer refers to the struct that the command reads.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), PRESERVE_FD as _, pointer) };
        match result {
            0 => Ok(()),
            _ => {
                let error = std::io::Error::last_os_error();
                Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
        }
    }
}
