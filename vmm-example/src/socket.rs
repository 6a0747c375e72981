//! Unix sockets to listen on.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, chmod, chownat, fchmod, fstat, open};
use rustix::io::Errno;
use rustix::net;

/// Whether sockets and terminal are this process's to remove and restore: not before a guest was
/// taken over from another process, and no longer once it was handed over.
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

/// A socket's path in the file system; removed on drop, if it is ours.
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

/// Listens on `path`, replacing a dead socket. Only this user can connect.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let kind = net::SocketType::STREAM;
    let flags = net::SocketFlags::CLOEXEC;
    let socket = net::socket_with(net::AddressFamily::UNIX, kind, flags, None)?;
    // The file created by bind gets this mode: changing it afterwards could hit another file, in a
    // directory of somebody else's.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let address = net::SocketAddrUnix::new(path)?;
    match net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) if is_dead_socket(path) => {
            fs::remove_file(path)?;
            net::bind(&socket, &address)?;
        }
        bound => bound?,
    }
    // The longest queue that the system allows.
    net::listen(&socket, i32::MAX)?;
    Ok(socket.into())
}

/// Lets a group connect to a socket.
pub(crate) fn share(path: &Path, group: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = open(path, flags, Mode::empty())?;
    if !FileType::from_raw_mode(fstat(&socket)?.st_mode).is_socket() {
        return Err(Errno::NOTSOCK.into());
    }
    chownat(
        &socket,
        "",
        None,
        Some(Gid::from_raw(group)),
        AtFlags::EMPTY_PATH,
    )?;
    let itself = format!("/proc/self/fd/{}", socket.as_raw_fd());
    Ok(chmod(itself, Mode::from_raw_mode(0o660))?)
}

fn is_dead_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).is_err()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_socket_is_its_users_and_the_groups_if_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = listen(&path).unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        let group = fs::metadata(&path).unwrap().gid();
        share(&path, group).unwrap();
        assert_eq!(mode(), 0o660);
    }

    #[test]
    fn what_a_link_leads_to_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("socket"), dir.path().join("file"));
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        symlink(&file, &path).unwrap();
        assert!(listen(&path).is_err());
        assert!(share(&path, 0).is_err());
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

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
