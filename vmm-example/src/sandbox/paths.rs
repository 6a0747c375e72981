//! Landlock: files, sockets and processes outside of what is open already.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use thiserror::Error;

use super::Sandbox;

/// The newest rights that are asked for. What a kernel does not know it does not restrict.
const ABI_WANTED: ABI = ABI::V9;

/// Why Landlock does not hold.
#[derive(Debug, Error)]
pub(super) enum PathsError {
    #[error("Landlock refused its rules")]
    Rules(#[source] RulesetError),
    #[error("it has no Landlock")]
    Missing,
}

/// From now on nothing can be opened, executed, made or removed, and no socket be found by its name,
/// but what `sandbox` names.
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
        if let Some(folder) = folder_of_our_own(socket) {
            rules = rules.add_rule(PathBeneath::new(folder, AccessFs::RemoveFile))?;
        }
    }
    let connects = sandbox.connects.as_deref().and_then(Path::parent);
    if let Some(Ok(folder)) = connects.map(PathFd::new) {
        rules = rules.add_rule(PathBeneath::new(folder, AccessFs::ResolveUnix))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// The folder of a socket, if nobody else's sockets can be in it: the socket can go in the end.
fn folder_of_our_own(socket: &Path) -> Option<PathFd> {
    let folder = socket.parent()?;
    let owner = folder.metadata().ok()?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return None;
    }
    PathFd::new(folder).ok()
}
