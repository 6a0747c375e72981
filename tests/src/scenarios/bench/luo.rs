//! The kernel's own Live Update Orchestrator, through its ioctls (include/uapi/linux/liveupdate.h).

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::io::FdFlags;

use crate::uapi::{self, Plain};

const DEVICE: &str = "/dev/liveupdate";

const fn io(nr: u32) -> u32 {
    (0xba << 8) | nr
}

const CREATE_SESSION: u32 = io(0x00);
const RETRIEVE_SESSION: u32 = io(0x01);
const PRESERVE_FD: u32 = io(0x40);
const RETRIEVE_FD: u32 = io(0x41);
const FINISH: u32 = io(0x42);

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct SessionArgument {
    size: u32,
    fd: i32,
    name: [u8; 64],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct FdArgument {
    size: u32,
    fd: i32,
    token: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct FinishArgument {
    size: u32,
    reserved: u32,
}

// SAFETY: integers and byte arrays without gaps between them (the sizes are checked below).
unsafe impl Plain for SessionArgument {}
// SAFETY: as above.
unsafe impl Plain for FdArgument {}
// SAFETY: as above.
unsafe impl Plain for FinishArgument {}
const _: () = {
    assert!(size_of::<SessionArgument>() == 4 + 4 + 64);
    assert!(size_of::<FdArgument>() == 4 + 4 + 8);
    assert!(size_of::<FinishArgument>() == 4 + 4);
};

/// A session; the files it preserves are lost if it is closed before the kexec.
#[derive(Debug)]
pub(super) struct Session(OwnedFd);

impl Session {
    pub(super) fn create(name: &str) -> Result<Self> {
        Self::open(CREATE_SESSION, name).with_context(|| format!("Create the LUO session {name}"))
    }

    pub(super) fn retrieve(name: &str) -> Result<Self> {
        Self::open(RETRIEVE_SESSION, name)
            .with_context(|| format!("Retrieve the LUO session {name}"))
    }

    fn open(command: u32, name: &str) -> Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .context("Open /dev/liveupdate")?;
        let mut argument = SessionArgument {
            size: size_of::<SessionArgument>() as u32,
            fd: -1,
            name: [0; 64],
        };
        argument.name[..name.len()].copy_from_slice(name.as_bytes());
        uapi::call(&device, command, &mut argument)?;
        // SAFETY: the kernel has just created this descriptor for the caller.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(argument.fd) }))
    }

    pub(super) fn preserve(&self, file: &File, token: u64) -> Result<()> {
        let mut argument = FdArgument {
            size: size_of::<FdArgument>() as u32,
            fd: file.as_raw_fd(),
            token,
        };
        uapi::call(&self.0, PRESERVE_FD, &mut argument).context("LUO's PRESERVE_FD")?;
        Ok(())
    }

    pub(super) fn take(&self, token: u64) -> Result<File> {
        let mut argument = FdArgument {
            size: size_of::<FdArgument>() as u32,
            fd: -1,
            token,
        };
        uapi::call(&self.0, RETRIEVE_FD, &mut argument).context("LUO's RETRIEVE_FD")?;
        // SAFETY: the kernel has just created this descriptor for the caller.
        Ok(File::from(unsafe { OwnedFd::from_raw_fd(argument.fd) }))
    }

    pub(super) fn finish(self) -> Result<()> {
        let mut argument = FinishArgument {
            size: size_of::<FinishArgument>() as u32,
            reserved: 0,
        };
        uapi::call(&self.0, FINISH, &mut argument).context("LUO's FINISH")?;
        Ok(())
    }

    /// Passes the session to a process that keeps it open until the kexec.
    pub(super) fn leave_open(self) -> Result<()> {
        rustix::io::fcntl_setfd(self.0.as_fd(), FdFlags::empty())?;
        // It runs until the end of this kernel, so it is not waited for.
        #[allow(clippy::zombie_processes, reason = "its parent is soon PID 1")]
        Command::new("/proc/self/exe")
            .args(["bench", "hold"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("Keep the LUO session open")?;
        Ok(())
    }
}
