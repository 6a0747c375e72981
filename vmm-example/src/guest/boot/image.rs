//! What a guest boots from, opened: it is read again when the guest resets.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use super::BootError;
use crate::files;

/// Kernel, initramfs and command line.
#[derive(Debug)]
pub(crate) struct BootImage {
    pub(super) kernel: Source,
    pub(super) initramfs: Option<Source>,
    pub(super) cmdline: String,
}

/// An open file, and what it was opened as.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    file: File,
}

impl BootImage {
    /// Opens the files. A relative path is one of this process's.
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
            path: path.into(),
        })
    }

    /// The file, to be read from its beginning.
    pub(super) fn rewound(&self) -> io::Result<&File> {
        (&self.file).rewind()?;
        Ok(&self.file)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
