//! Directories for sockets, from which a VMM that has switched users can remove its sockets.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::Path;

use super::User;

/// Creates the directory of a socket for the user, if it is missing: only that user can enter it,
/// and a group if given.
pub(super) fn make(socket: &Path, user: User, group: Option<u32>) -> io::Result<()> {
    let folder = socket
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let Some(folder) = folder else {
        return Ok(());
    };
    let mode = if group.is_some() { 0o710 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(folder) {
        Ok(()) => {
            // Regardless of the umask.
            fs::set_permissions(folder, Permissions::from_mode(mode))?;
            lchown(folder, Some(user.uid), Some(group.unwrap_or(user.gid)))
        }
        // Whoever created it has chosen its owner.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_current_folder_is_there() {
        let user = User { uid: 7, gid: 9 };
        make(Path::new("vm0.sock"), user, None).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_made_for_the_user() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("vm0");
        let user = User {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let user = match user.uid {
            0 => User { uid: 7, gid: 9 },
            _ => user,
        };
        make(&folder.join("vm0.sock"), user, None).unwrap();
        let made = folder.metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (user.uid, user.gid));
        assert_eq!(made.mode() & 0o777, 0o700);
        // The second socket in it, or one in a directory of somebody else's.
        make(&folder.join("vm0.console"), user, None).unwrap();
        let before = dir.path().metadata().unwrap();
        make(&dir.path().join("vm1.sock"), user, None).unwrap();
        let after = dir.path().metadata().unwrap();
        assert_eq!((after.uid(), after.mode()), (before.uid(), before.mode()));
        assert!(make(&dir.path().join("no/such/vm1.sock"), user, None).is_err());
    }
}
