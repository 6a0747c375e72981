//! Opening the files of a next kernel without ever blocking, with errors that name the file.

use std::fs::{File, FileType, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::KexecError;

/// `KEXEC_FILE_SIZE_MAX` of the kernel.
const MAX_BYTES: u64 = 4 << 30;

/// Why a file cannot be loaded, regardless of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The kernel loads regular files only.
    #[error("it is {0}, not a regular file")]
    NotRegular(&'static str),
    /// The file is empty.
    #[error("it is empty")]
    Empty,
    /// The file is larger than the kernel accepts.
    #[error("it has {bytes} bytes, and kexec_file_load takes no more than {MAX_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
}

fn name_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    }
}

fn check(metadata: &Metadata) -> Result<(), FileError> {
    if !metadata.is_file() {
        return Err(FileError::NotRegular(name_of(metadata.file_type())));
    }
    match metadata.len() {
        0 => Err(FileError::Empty),
        bytes if bytes > MAX_BYTES => Err(FileError::TooLarge { bytes }),
        _ => Ok(()),
    }
}

/// Opens a file for kexec; errors name it. A file that is not regular is not even opened: opening
/// it could block forever, and has side effects on some devices.
pub(super) fn open(path: &Path) -> Result<File, KexecError> {
    let path = || PathBuf::from(path);
    let cannot_open = |source: io::Error| KexecError::Open {
        path: path(),
        source,
    };
    let unfit = |source| KexecError::File {
        path: path(),
        source,
    };
    check(&path().metadata().map_err(cannot_open)?).map_err(unfit)?;
    // The path may refer to another file by now.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path(), flags, Mode::empty());
    let file = File::from(file.map_err(|errno| cannot_open(errno.into()))?);
    check(&file.metadata().map_err(cannot_open)?).map_err(unfit)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;
    use crate::kexec::testing::assert_documented;

    fn refused(path: &Path) -> String {
        let error = open(path).unwrap_err();
        assert!(matches!(error, KexecError::File { .. }), "{error:?}");
        crate::Chain(&error).to_string()
    }

    #[test]
    fn what_is_no_file_is_named_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Opening it for reading would block until there is a writer.
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        symlink("fifo", at("link")).unwrap();
        for (path, what) in [
            (dir.path().to_owned(), "a directory"),
            (at("fifo"), "a FIFO"),
            (at("link"), "a FIFO"),
            (at("socket"), "a socket"),
            ("/dev/zero".into(), "a device"),
        ] {
            let text = refused(&path);
            let expected = format!(
                "Cannot load {}: it is {what}, not a regular file",
                path.display()
            );
            assert_eq!(text, expected);
        }
        assert_documented("not a regular file");
    }

    #[test]
    fn a_file_of_no_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd");
        let file = File::create(&path).unwrap();
        assert!(refused(&path).ends_with("initrd: it is empty"));
        assert_documented("it is empty");
        file.set_len(MAX_BYTES + 1).unwrap();
        assert!(refused(&path).contains("4294967297 bytes"));
        assert_documented("kexec_file_load takes no more than");
        file.set_len(MAX_BYTES).unwrap();
        open(&path).unwrap();
        let missing = open(&dir.path().join("none")).unwrap_err();
        assert!(matches!(missing, KexecError::Open { .. }));
    }
}
