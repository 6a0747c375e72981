//! The state of a guest as it was while it ran, in a file. The VMM that is to take the guest rehearses with it, before
//! the state proper is written; one beside this kernel, which finds it in the guest's box, builds itself from it, too.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use thiserror::Error;
use vmm_fdbox::frame::FrameError;
use vmm_fdbox::statefd::{SavedState, StateError, StateFd};

use crate::guest::state::{GuestState, KNOWN, PRODUCER};

/// Its name in the box.
pub(crate) const OUTLINE_FD: &str = "vm-outline";

/// Why there is no outline.
#[derive(Debug, Error)]
pub(crate) enum OutlineError {
    #[error("The guest's outline cannot be written or read")]
    State(#[from] StateError),
    #[error("The guest's outline cannot be written or read")]
    Frame(#[from] FrameError),
    #[error("The guest's outline cannot be erased")]
    Erase(#[from] std::io::Error),
    #[error("The guest's outline has what this VMM cannot read: {}", .0.join(", "))]
    Unknown(Vec<String>),
}

/// A file with the state, for the box, of at most so many bytes.
pub(crate) fn write(state: &GuestState, capacity: usize) -> Result<OwnedFd, OutlineError> {
    let (mut file, fd) = StateFd::create(capacity)?;
    file.write_frame::<OutlineError>(PRODUCER, |frame| Ok(state.write(frame)?))?;
    Ok(fd)
}

/// Erases it, once nobody is to build anything from it any more: it holds the guest's registers.
pub(crate) fn erase(fd: OwnedFd) -> Result<(), OutlineError> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let file = File::from(fd);
    let size = file.metadata()?.len();
    for at in (0..size).step_by(ZEROS.len()) {
        let len = (size - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..len as usize], at)?;
    }
    Ok(())
}

pub(crate) fn read(fd: impl AsFd) -> Result<GuestState, OutlineError> {
    let frame = SavedState::read(fd)?.frame;
    frame.check(&KNOWN).map_err(|blockers| {
        OutlineError::Unknown(blockers.into_iter().map(|it| it.subject).collect())
    })?;
    Ok(GuestState::read(&frame)?)
}
