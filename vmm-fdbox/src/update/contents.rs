//! A box that a guest is taken out of, and how to leave it as it was.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::outcome::UpdateError;
use super::state_fd_name;
use crate::boxes::AnyBox;
use crate::claim::Hold;
use crate::error::{BoxError, Operation};
use crate::listing::FdInfo;
use crate::name::{BoxName, FdName};
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};

/// Why there is no box: the module knows whether it refused one.
fn no_guest<S: BoxStore>(store: &S, name: &BoxName) -> UpdateError {
    if store
        .info()
        .is_ok_and(|info| info.features.handover_refused())
    {
        return UpdateError::HandoverRefused(name.clone());
    }
    UpdateError::NoGuest(name.clone())
}

/// Only a resume takes the state out for good, at its commit.
fn taken_already(error: UpdateError, name: &BoxName) -> UpdateError {
    match error {
        UpdateError::Box(error) if error.errno() == Errno::NOENT => {
            UpdateError::TakenAlready(name.clone())
        }
        other => other,
    }
}

/// A box that somebody takes a guest out of. It keeps each descriptor that is taken, until the guest runs: a
/// program that is killed on the way leaves everything for the next one.
#[derive(Debug)]
pub(super) struct Contents<S: BoxStore> {
    /// `None` once committed or given up.
    open: Option<S::Open>,
    /// Whether the box is sealed when it is given up.
    seals: bool,
    hold: Hold,
    claim: Option<S::Claim>,
    /// What was in the box when it was opened. From then on it is this program's: asking again
    /// would only make a guest wait.
    listed: Vec<FdInfo>,
    taken: Vec<FdName>,
}

impl<S: BoxStore> Contents<S> {
    /// Opens and unseals the box; on failure it is as it was.
    pub(super) fn open(store: &S, name: &BoxName, hold: Hold) -> Result<Self, UpdateError> {
        let missing = |error: BoxError| match error.errno() {
            Errno::NOENT => no_guest(store, name),
            _ => error.into(),
        };
        let claim = store.claim(name, hold).map_err(missing)?;
        let (open, was_sealed) = match store.open_box(name).map_err(missing)? {
            AnyBox::Sealed(sealed) => (sealed.unseal().map_err(|failed| failed.error)?, true),
            AnyBox::Open(open) => (open, false),
        };
        let mut contents = Self {
            open: Some(open),
            seals: was_sealed,
            hold,
            claim: Some(claim),
            listed: Vec::new(),
            taken: Vec::new(),
        };
        contents.listed = contents.opened(&state_fd_name())?.fds()?;
        Ok(contents)
    }

    fn opened(&self, name: &FdName) -> Result<&S::Open, BoxError> {
        let gone = || BoxError::new(Operation::Get, format!("'{name}'"), Errno::NODEV);
        self.open.as_ref().ok_or_else(gone)
    }

    /// There is a guest in the box. If it was open though nobody else works on it, a program that
    /// was killed left it so: it is sealed when it is given up, and can cross a kexec again.
    pub(super) fn has_guest(&mut self) {
        self.seals |= self.hold == Hold::Exclusive;
    }

    pub(super) fn take(&mut self, name: &FdName) -> Result<OwnedFd, UpdateError> {
        let fd = self.opened(name)?.get_and_keep(name)?;
        self.taken.push(name.clone());
        Ok(fd)
    }

    /// The descriptors that nobody has taken.
    pub(super) fn untaken(&self) -> impl Iterator<Item = &FdInfo> {
        self.listed
            .iter()
            .filter(|info| !self.taken.contains(&info.name))
    }

    /// Takes the state out, written or not.
    pub(super) fn take_state(&mut self, box_name: &BoxName) -> Result<OwnedFd, UpdateError> {
        self.take(&state_fd_name())
            .map_err(|error| taken_already(error, box_name))
    }

    /// Takes out for good what a resume cannot do without, so that nobody can run the guest a
    /// second time. The rest goes with the box, which is this program's until then.
    pub(super) fn commit(&mut self, box_name: &BoxName) -> Result<Option<S::Claim>, UpdateError> {
        let state = state_fd_name();
        let taken = self.opened(&state)?.get(&state).map_err(UpdateError::from);
        drop(taken.map_err(|error| taken_already(error, box_name))?);
        self.open = None;
        Ok(self.claim.take())
    }

    /// Seals the box, in which everything is, if it is to be. Returns what did not go smoothly.
    pub(super) fn give_up(&mut self) -> Option<String> {
        let open = self.open.take().filter(|_| self.seals)?;
        open.seal().err().map(|failed| failed.error.to_string())
    }
}

impl<S: BoxStore> Drop for Contents<S> {
    fn drop(&mut self) {
        // Whoever wants to know what went wrong calls `abort`.
        let _ = self.give_up();
    }
}
