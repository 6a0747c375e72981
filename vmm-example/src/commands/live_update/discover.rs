//! Which VMMs there are on this host.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The API sockets in a directory, sorted, without those that nobody listens on any more.
pub(super) fn sockets(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let context = || format!("Cannot look for guests in {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(context)? {
        let entry = entry.with_context(context)?;
        let path = entry.path();
        let is_socket = entry.file_type().with_context(context)?.is_socket();
        if is_socket && path.extension().is_some_and(|end| end == "sock") && !is_dead(&path) {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        bail!(
            "No guest runs in {}: name the VMMs' sockets *.sock there, or use --api-socket",
            dir.display()
        );
    }
    Ok(found)
}

/// Whether a VMM left its socket behind. One that is busy is not dead.
fn is_dead(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn living_sockets_are_found_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(sockets(dir.path()).is_err());
        let living = ["b.sock", "a.sock", "c.console"].map(|n| UnixListener::bind(at(n)).unwrap());
        drop(UnixListener::bind(at("dead.sock")).unwrap());
        fs::write(at("file.sock"), "").unwrap();
        assert_eq!(sockets(dir.path()).unwrap(), [at("a.sock"), at("b.sock")]);
        drop(living);
    }
}
