//! The module `fdbox_probe`: a driver whose callbacks can block.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};

use crate::host;

const NODE: &str = "/dev/fdbox_probe";

/// The driver's node, for commands.
#[derive(Debug)]
pub(crate) struct Probe(File);

impl Probe {
    /// Loads the module, unless it is loaded.
    pub(crate) fn load() -> Result<Self> {
        host::load_module("fdbox_probe")?;
        Self::open()
    }

    pub(crate) fn open() -> Result<Self> {
        let node = OpenOptions::new().read(true).write(true).open(NODE);
        Ok(Self(node.context("Open the probe")?))
    }

    /// A file for a box.
    pub(crate) fn file() -> Result<File> {
        let node = OpenOptions::new().read(true).write(true).open(NODE);
        node.context("Open the probe")
    }

    /// A file for a box, with an anonymous inode.
    pub(crate) fn anonymous(&self) -> Result<OwnedFd> {
        // SAFETY: any command works; the argument is a number.
        let fd = unsafe { libc::ioctl(self.0.as_raw_fd(), 0x2e00, 0) };
        ensure!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the kernel has just created this descriptor for the caller.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Sends the driver a command word: see `probe_node.c`.
    pub(crate) fn tell(&self, word: &str) -> Result<()> {
        let written = (&self.0).write_all(word.as_bytes());
        written.with_context(|| format!("Tell the probe {word}"))
    }

    /// Returns when the host has begun to reboot and fdbox.ko has been notified.
    pub(crate) fn await_reboot(&self) -> Result<()> {
        let read = (&self.0).read_exact(&mut [0]);
        read.context("Wait for the reboot")
    }

    /// How often `seal` was called.
    pub(crate) fn seals() -> Result<u32> {
        count("seals")
    }

    /// How often `carry` was called without being undone.
    pub(crate) fn carried() -> Result<u32> {
        count("carried")
    }

    /// How often `discard` was called.
    pub(crate) fn discards() -> Result<u32> {
        count("discarded")
    }

    /// How often `restore` was called.
    pub(crate) fn restores() -> Result<u32> {
        count("restores")
    }
}

fn count(of: &str) -> Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/module/fdbox_probe/parameters/{of}"))?;
    Ok(text.trim().parse()?)
}
