//! A box from which a guest is taken, and how to leave it unchanged.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::outcome::UpdateError;
use super::state_fd_name;
use crate::boxes::AnyBox;
use crate::error::{BoxError, Operation};
use crate::hold::Hold;
use crate::listing::FdInfo;
use crate::name::{BoxName, FdName};
use crate::statefd;
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

fn gone(name: &FdName) -> BoxError {
    BoxError::new(Operation::Get, format!("'{name}'"), Errno::NODEV)
}

/// A box from which a guest is taken. It keeps each descriptor that is taken until the guest runs,
/// so that a program that is killed before that leaves everything for the next one.
#[derive(Debug)]
pub(super) struct Contents<S: BoxStore> {
    /// `None` once committed or given up.
    at: Option<AnyBox<S::Open, S::Sealed>>,
    /// Of a guest in a box that stays sealed until the commit: its state, which is overwritten then.
    wiped: Option<OwnedFd>,
    /// Whether the box is sealed when it is given up.
    seals: bool,
    hold: Hold,
    claim: Option<S::Claim>,
    /// The contents when the box was opened. From then on only this program uses the box; listing
    /// it again would make a guest wait.
    listed: Vec<FdInfo>,
    taken: Vec<FdName>,
}

impl<S: BoxStore> Contents<S> {
    /// Opens and unseals the box; on failure it is unchanged.
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
            at: Some(AnyBox::Open(open)),
            wiped: None,
            seals: was_sealed,
            hold,
            claim: Some(claim),
            listed: Vec::new(),
            taken: Vec::new(),
        };
        contents.listed = contents.list()?;
        Ok(contents)
    }

    /// Looks into a sealed box that another kernel has. It stays sealed until the commit.
    pub(super) fn open_away(store: &S, name: &BoxName) -> Result<Self, UpdateError> {
        let missing = |error: BoxError| match error.errno() {
            Errno::NOENT => no_guest(store, name),
            _ => error.into(),
        };
        let hold = Hold::Shared;
        let claim = store.claim(name, hold).map_err(missing)?;
        let mut contents = Self {
            at: Some(store.open_box(name).map_err(missing)?),
            wiped: None,
            seals: false,
            hold,
            claim: Some(claim),
            listed: Vec::new(),
            taken: Vec::new(),
        };
        contents.listed = contents.list()?;
        Ok(contents)
    }

    fn list(&self) -> Result<Vec<FdInfo>, BoxError> {
        match &self.at {
            Some(AnyBox::Open(open)) => open.fds(),
            Some(AnyBox::Sealed(sealed)) => sealed.fds(),
            None => Ok(Vec::new()),
        }
    }

    /// Records that there is a guest in the box. If the box was open although nobody else is
    /// working on it, a program that was killed left it so: it is then sealed when it is given up,
    /// and can cross a kexec again.
    pub(super) fn has_guest(&mut self) {
        self.seals |= self.hold == Hold::Exclusive;
    }

    /// `None`: it was not in the box when that was opened.
    pub(super) fn take_if_there(&mut self, name: &FdName) -> Result<Option<OwnedFd>, UpdateError> {
        match self.listed.iter().any(|info| info.name == *name) {
            true => self.take(name).map(Some),
            false => Ok(None),
        }
    }

    pub(super) fn take(&mut self, name: &FdName) -> Result<OwnedFd, UpdateError> {
        let fd = match &self.at {
            Some(AnyBox::Open(open)) => open.get_and_keep(name),
            Some(AnyBox::Sealed(sealed)) => sealed.get_and_keep(name),
            None => Err(gone(name)),
        }?;
        self.taken.push(name.clone());
        Ok(fd)
    }

    /// Unseals a box that has stayed sealed.
    pub(super) fn unseal(&mut self) -> Result<(), UpdateError> {
        let sealed = match self.at.take() {
            Some(AnyBox::Sealed(sealed)) => sealed,
            other => {
                self.at = other;
                return Ok(());
            }
        };
        match sealed.unseal() {
            Ok(open) => {
                self.at = Some(AnyBox::Open(open));
                self.seals = true;
                Ok(())
            }
            Err(failed) => {
                self.at = Some(AnyBox::Sealed(failed.sealed));
                Err(failed.error.into())
            }
        }
    }

    /// Leaves a descriptor where it is: it counts as taken.
    pub(super) fn leave(&mut self, name: &FdName) {
        self.taken.push(name.clone());
    }

    /// The descriptors that have not been taken.
    pub(super) fn untaken(&self) -> impl Iterator<Item = &FdInfo> {
        self.listed
            .iter()
            .filter(|info| !self.taken.contains(&info.name))
    }

    /// Takes the state out, whether or not it has been written.
    pub(super) fn take_state(&mut self, box_name: &BoxName) -> Result<OwnedFd, UpdateError> {
        self.take(&state_fd_name())
            .map_err(|error| taken_already(error, box_name))
    }

    /// The same, of a box that stays sealed.
    pub(super) fn take_away_state(&mut self, box_name: &BoxName) -> Result<OwnedFd, UpdateError> {
        let state = self.take_state(box_name)?;
        self.wiped = Some(self.take_state(box_name)?);
        Ok(state)
    }

    /// Takes out for good what every resume needs, so that nobody can run the guest a second time.
    /// The rest goes with the box, which only this program uses until then.
    pub(super) fn commit(&mut self, box_name: &BoxName) -> Result<Option<S::Claim>, UpdateError> {
        let state = state_fd_name();
        let open = match self.at.take() {
            Some(AnyBox::Open(open)) => open,
            // From here on the guest is this kernel's.
            Some(AnyBox::Sealed(sealed)) => sealed.unseal().map_err(|failed| failed.error)?,
            None => return Err(gone(&state).into()),
        };
        // Erased last: if it cannot be taken out, the box goes back with it.
        let taken = open.get(&state).map_err(UpdateError::from);
        let taken = taken.and_then(|fd| self.wipe().map(|()| fd));
        match taken.map_err(|error| taken_already(error, box_name)) {
            Ok(_) => Ok(self.claim.take()),
            Err(error) => {
                self.seals |= self.wiped.is_some();
                self.at = Some(AnyBox::Open(open));
                Err(error)
            }
        }
    }

    /// Overwrites the state: once the guest runs, it does not belong to the memory any more, which stays with the
    /// other kernel.
    fn wipe(&self) -> Result<(), UpdateError> {
        match &self.wiped {
            Some(state) => Ok(statefd::wipe(state)?),
            None => Ok(()),
        }
    }

    /// Seals the box, with everything in it, if it should be sealed. Returns a problem, if any.
    pub(super) fn give_up(&mut self) -> Option<String> {
        let open = self.at.take()?.into_open().filter(|_| self.seals)?;
        open.seal().err().map(|failed| failed.error.to_string())
    }
}

impl<S: BoxStore> Drop for Contents<S> {
    fn drop(&mut self) {
        // A caller that wants the error uses `abort`.
        let _ = self.give_up();
    }
}
