//! The opened files that a guest boots from: they are read again when the guest resets.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::BootError;
use crate::files;

/// What a guest boots from, version 1, so that another VMM can find it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootStateV1 {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) cmdline: String,
}

/// Kernel, initramfs and command line.
#[derive(Debug)]
pub(crate) struct BootImage {
    pub(super) kernel: Source,
    pub(super) initramfs: Option<Source>,
    pub(super) cmdline: String,
}

/// An open file, and the path it was opened by.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    file: File,
}

impl BootImage {
    /// Opens the files. Relative paths are relative to this process's working directory.
    pub(crate) fn open(
        kernel: &Path,
        initramfs: Option<&Path>,
        cmdline: &str,
    ) -> Result<Self, BootError> {
        Ok(Self {
            kernel: Source::open("kernel", kernel)?,
            initramfs: initramfs
                .map(|path| Source::open("initramfs", path))
                .transpose()?,
            cmdline: cmdline.into(),
        })
    }

    /// Opens what a saved guest booted from.
    pub(crate) fn reopen(state: &BootStateV1) -> Result<Self, BootError> {
        Self::open(&state.kernel, state.initramfs.as_deref(), &state.cmdline)
    }

    /// Continues with files that another process has opened.
    pub(crate) fn inherit(
        state: &BootStateV1,
        kernel: OwnedFd,
        initramfs: Option<OwnedFd>,
    ) -> Self {
        let source = |path: &PathBuf, fd: OwnedFd| Source {
            path: path.clone(),
            file: fd.into(),
        };
        let initramfs = state.initramfs.as_ref().zip(initramfs);
        Self {
            kernel: source(&state.kernel, kernel),
            initramfs: initramfs.map(|(path, fd)| source(path, fd)),
            cmdline: state.cmdline.clone(),
        }
    }

    /// Duplicates of its files' descriptors: the kernel, and the initramfs if there is one.
    pub(crate) fn fds(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let fd = |source: &Source| Ok::<_, io::Error>(source.file.try_clone()?.into());
        let initramfs = self.initramfs.as_ref().map(fd).transpose()?;
        Ok((fd(&self.kernel)?, initramfs))
    }

    pub(crate) fn state(&self) -> BootStateV1 {
        BootStateV1 {
            kernel: self.kernel.path.clone(),
            initramfs: self.initramfs.as_ref().map(|source| source.path.clone()),
            cmdline: self.cmdline.clone(),
        }
    }
}

impl Source {
    fn open(what: &'static str, path: &Path) -> Result<Self, BootError> {
        let failed = |source| BootError::Open {
            what,
            path: path.into(),
            source,
        };
        Ok(Self {
            file: files::regular(path).map_err(failed)?,
            // Another VMM has another working directory.
            path: std::path::absolute(path).map_err(failed)?,
        })
    }

    /// The file, rewound to its beginning.
    pub(super) fn rewound(&self) -> io::Result<&File> {
        (&self.file).rewind()?;
        Ok(&self.file)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
