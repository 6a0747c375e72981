//! Files named by an operator. Opening them never blocks: a guest may be paused meanwhile, and a
//! pipe without a peer would block forever.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading.
pub(crate) fn regular(path: &Path) -> io::Result<File> {
    open(
        path,
        OpenOptions::new().read(true),
        FileType::is_file,
        "not a regular file",
    )
}

/// Opens a disk, in a file or on a block device.
pub(crate) fn disk(path: &Path, readonly: bool) -> io::Result<File> {
    let fits = |kind: &FileType| kind.is_file() || kind.is_block_device();
    let is_not = "neither a regular file nor a block device";
    open(
        path,
        OpenOptions::new().read(true).write(!readonly),
        fits,
        is_not,
    )
}

/// Opens a file or a device for a guest's output, at its end; creates the file if there is none.
pub(crate) fn output(path: &Path) -> io::Result<File> {
    let fits = |kind: &FileType| !kind.is_dir();
    open(
        path,
        OpenOptions::new().create(true).append(true),
        fits,
        "not a place for output",
    )
}

fn open(
    path: &Path,
    options: &mut OpenOptions,
    fits: impl Fn(&FileType) -> bool,
    is_not: &str,
) -> io::Result<File> {
    let check = |found: &Metadata| match fits(&found.file_type()) {
        true => Ok(()),
        false => {
            let what = describe(found.file_type());
            Err(io::Error::other(format!("it is {what}, {is_not}")))
        }
    };
    // Opening has side effects on some devices.
    if let Ok(found) = path.metadata() {
        check(&found)?;
    }
    let options = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    // The path may refer to something else by now.
    check(&file.metadata()?)?;
    Ok(file)
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() => "a device",
        kind if kind.is_block_device() => "a block device",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_no_file_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), kind, mode, 0).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        for (path, what) in [
            (at("fifo"), "a FIFO"),
            (at("socket"), "a socket"),
            (dir.path().into(), "a directory"),
            ("/dev/zero".into(), "a device"),
        ] {
            let error = regular(&path).unwrap_err().to_string();
            assert_eq!(error, format!("it is {what}, not a regular file"));
            let error = disk(&path, false).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("it is {what}, neither")),
                "{error}"
            );
        }
        assert!(regular(&at("missing")).is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
        std::fs::write(at("file"), "x").unwrap();
        assert!(regular(&at("file")).is_ok() && disk(&at("file"), true).is_ok());
    }

    #[test]
    fn output_goes_to_files_and_devices_and_waits_for_no_reader() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), kind, mode, 0).unwrap();
        let unread = output(&at("fifo")).unwrap_err();
        assert_eq!(unread.raw_os_error(), Some(libc::ENXIO));
        assert!(output(dir.path()).is_err());
        assert!(output(&at("new")).is_ok() && output(Path::new("/dev/null")).is_ok());
    }
}
