//! Finds the VMMs on this host.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The API sockets in a directory and in its subdirectories, which VMMs with a user of their own
/// use, sorted, without those that nobody listens on any more.
pub(super) fn sockets(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    let mut found = living(dir, |folder| folders.push(folder))?;
    for folder in folders {
        // It may have disappeared meanwhile.
        found.extend(living(&folder, |_| {}).unwrap_or_default());
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

/// The sockets in one directory. Links are not followed.
fn living(dir: &Path, mut is_folder: impl FnMut(PathBuf)) -> anyhow::Result<Vec<PathBuf>> {
    let context = || format!("Cannot look for guests in {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(context)? {
        let entry = entry.with_context(context)?;
        let (path, kind) = (entry.path(), entry.file_type().with_context(context)?);
        if kind.is_dir() {
            is_folder(path);
        } else if kind.is_socket()
            && path.extension().is_some_and(|end| end == "sock")
            && !is_dead(&path)
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether a VMM left its socket behind. A busy VMM is not dead.
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
        fs::create_dir(at("own")).unwrap();
        let own = UnixListener::bind(at("own/own.sock")).unwrap();
        std::os::unix::fs::symlink(at("own"), at("link")).unwrap();
        let all = [at("a.sock"), at("b.sock"), at("own/own.sock")];
        assert_eq!(sockets(dir.path()).unwrap(), all);
        drop(own);
        drop(living);
    }
}
