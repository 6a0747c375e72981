//! Landlock: denies files, sockets and processes other than those already open.

use std::fs::DirEntry;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use thiserror::Error;

use super::Sandbox;

/// The newest rights to restrict. A kernel ignores those it does not know.
const ABI_WANTED: ABI = ABI::V9;

/// Why Landlock could not be enabled.
#[derive(Debug, Error)]
pub(super) enum PathsError {
    #[error("Landlock refused its rules")]
    Rules(#[source] RulesetError),
    #[error("it has no Landlock")]
    Missing,
}

/// From now on nothing can be opened, executed, created or removed, and no socket can be connected
/// to by name, except for what `sandbox` names.
pub(super) fn restrict(sandbox: &Sandbox) -> Result<(), PathsError> {
    let status = rules(sandbox).map_err(PathsError::Rules)?;
    match status {
        RulesetStatus::NotEnforced => Err(PathsError::Missing),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

fn rules(sandbox: &Sandbox) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI_WANTED))?
        .handle_access(AccessNet::from_all(ABI_WANTED))?
        .scope(Scope::from_all(ABI_WANTED))?
        .create()?;
    for socket in &sandbox.sockets {
        if let Some(folder) = folder_of_our_own(socket, &sandbox.sockets) {
            rules = rules.add_rule(PathBeneath::new(folder, AccessFs::RemoveFile))?;
        }
    }
    let connects = sandbox.connects.as_deref().and_then(Path::parent);
    if let Some(Ok(folder)) = connects.map(PathFd::new) {
        rules = rules.add_rule(PathBeneath::new(folder, AccessFs::ResolveUnix))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// The directory of a socket, if it cannot contain other users' files: then the socket can be
/// removed at the end, along with anything below the directory. For root it must contain nothing
/// else.
fn folder_of_our_own(socket: &Path, ours: &[PathBuf]) -> Option<PathFd> {
    let folder = socket.parent()?;
    let owner = folder.metadata().ok()?.uid();
    let (own, is_root) = (rustix::process::geteuid(), owner == 0);
    if owner != own.as_raw() || (is_root && has_more_than(folder, ours)) {
        return None;
    }
    PathFd::new(folder).ok()
}

/// Whether a directory contains anything but these files.
fn has_more_than(folder: &Path, files: &[PathBuf]) -> bool {
    let Ok(entries) = folder.read_dir() else {
        return true;
    };
    let is_known = |entry: io::Result<DirEntry>| {
        entry.is_ok_and(|entry| files.iter().any(|file| *file == entry.path()))
    };
    !entries.into_iter().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_folder_with_something_else_in_it_nothing_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let [api, console] = ["api", "console"].map(|name| dir.path().join(name));
        let ours = [api.clone(), console];
        for path in &ours {
            std::fs::write(path, "").unwrap();
        }
        assert!(!has_more_than(dir.path(), &ours));
        assert!(folder_of_our_own(&api, &ours).is_some());
        assert!(has_more_than(dir.path(), &ours[..1]));
        std::fs::write(dir.path().join("other"), "").unwrap();
        assert!(has_more_than(dir.path(), &ours));
    }
}
