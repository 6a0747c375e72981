//! Unix sockets to listen on.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether what clients and terminal find is this process's to take down: not before a guest
/// was taken over from another process, and no longer when it was handed on.
#[derive(Clone, Debug)]
pub(crate) struct Ownership(Arc<AtomicBool>);

impl Ownership {
    pub(crate) fn new(ours: bool) -> Self {
        Self(Arc::new(AtomicBool::new(ours)))
    }

    pub(crate) fn set(&self, ours: bool) {
        self.0.store(ours, Ordering::SeqCst);
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Where a socket is in the file system; it goes when this does, if it is ours.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    ownership: Ownership,
}

impl SocketPath {
    pub(crate) fn new(path: &Path, ownership: &Ownership) -> Self {
        Self {
            path: path.into(),
            ownership: ownership.clone(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if self.ownership.is_ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on `path`, in place of a socket that nobody listens on any more. It is for this user only.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_dead_socket(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

fn is_dead_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(listen(&path).is_ok());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(listen(file.path()).is_err());
        assert!(file.path().exists());
    }
}
