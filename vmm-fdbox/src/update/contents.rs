//! A box that is being emptied, and how to fill it again.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::outcome::UpdateError;
use super::parties::NamedFd;
use crate::boxes::AnyBox;
use crate::error::{BoxError, Operation};
use crate::name::{BoxName, FdName};
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};

/// What putting things back came to.
#[derive(Debug, Default)]
pub(super) struct Undone {
    pub(super) problems: Vec<String>,
    pub(super) lost: Vec<FdName>,
}

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

/// What came out of the box, as duplicates that can go back in.
#[derive(Debug)]
pub(super) struct Contents<S: BoxStore> {
    /// `None` once committed or put back.
    pub(super) open: Option<S::Open>,
    was_sealed: bool,
    pub(super) taken: Vec<NamedFd>,
}

impl<S: BoxStore> Contents<S> {
    /// Opens and unseals the box; on failure it is as it was.
    pub(super) fn open(store: &S, name: &BoxName) -> Result<Self, UpdateError> {
        let found = store.open_box(name).map_err(|error| match error.errno() {
            Errno::NOENT => no_guest(store, name),
            _ => error.into(),
        })?;
        let (open, was_sealed) = match found {
            AnyBox::Sealed(sealed) => (sealed.unseal().map_err(|failed| failed.error)?, true),
            AnyBox::Open(open) => (open, false),
        };
        Ok(Self {
            open: Some(open),
            was_sealed,
            taken: Vec::new(),
        })
    }

    pub(super) fn take(&mut self, name: &FdName) -> Result<OwnedFd, UpdateError> {
        let gone = || BoxError::new(Operation::Get, format!("'{name}'"), Errno::NODEV);
        let open = self.open.as_ref().ok_or_else(gone)?;
        let fd = open.get(name)?;
        let copy = fd.try_clone();
        self.taken.push(NamedFd {
            name: name.clone(),
            fd,
        });
        copy.map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
            BoxError::new(Operation::Get, format!("'{name}'"), errno).into()
        })
    }

    /// Puts everything back and seals.
    pub(super) fn put_back(&mut self) -> Undone {
        let mut undone = Undone::default();
        let Some(open) = self.open.take() else {
            return undone;
        };
        for NamedFd { name, fd } in self.taken.drain(..) {
            if let Err(refused) = open.put(&name, fd) {
                undone.problems.push(refused.error.to_string());
                undone.lost.push(name);
            }
        }
        if self.was_sealed
            && let Err(failed) = open.seal()
        {
            undone.problems.push(failed.error.to_string());
        }
        undone
    }
}

impl<S: BoxStore> Drop for Contents<S> {
    fn drop(&mut self) {
        // Whoever wants to know what went wrong calls `abort`.
        let _ = self.put_back();
    }
}
