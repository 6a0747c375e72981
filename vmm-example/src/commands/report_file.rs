//! Where reports on guests are written.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The path of the report on `name`: a file in `path` if that is a directory.
pub(super) fn report_path(path: &Path, name: &str) -> PathBuf {
    if path.is_dir() {
        path.join(format!("{name}.json"))
    } else {
        path.into()
    }
}

/// Writes the file atomically: a reader that waits for it finds all of it. If the path is not a
/// regular file, such as a pipe, it is written to directly.
pub(super) fn write_report(path: &Path, json: &str) -> anyhow::Result<()> {
    let context = || format!("Cannot write {}", path.display());
    let json = format!("{json}\n");
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        // Do not block on a pipe without a reader: the guest needs its VMM.
        let mut options = OpenOptions::new();
        options
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let mut file = options.open(path).with_context(context)?;
        return file.write_all(json.as_bytes()).with_context(context);
    }
    let mut partial = OsString::from(path);
    partial.push(".partial");
    let written = fs::write(&partial, json).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // A partial file is useless, and takes space where there may be none.
        let _ = fs::remove_file(&partial);
    }
    written.with_context(context)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::error::chain;

    #[test]
    fn a_report_is_there_in_one_piece_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        write_report(&path, "{}").unwrap();
        write_report(&path, "[1]").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[1]\n");
        // The name is taken by a directory, so the file cannot be placed there.
        let folder = dir.path().join("folder.json");
        fs::create_dir_all(folder.join("x")).unwrap();
        assert!(write_report(&folder, "{}").is_err());
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 2, "something is left");
    }

    #[test]
    fn a_device_or_a_pipe_is_written_to_and_stays_what_it_is() {
        let error = write_report(Path::new("/dev/full"), "{}").unwrap_err();
        let text = chain(error.as_ref());
        assert!(
            text.starts_with("Cannot write /dev/full: No space left"),
            "{text}"
        );
        assert!(!fs::metadata("/dev/full").unwrap().is_file());

        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        // There is no reader.
        assert!(write_report(&fifo, "{}").is_err());
        let mut reader = OpenOptions::new();
        let reader = reader.read(true).custom_flags(libc::O_NONBLOCK);
        let mut reader = reader.open(&fifo).unwrap();
        write_report(&fifo, "{}").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{}\n");
    }
}
