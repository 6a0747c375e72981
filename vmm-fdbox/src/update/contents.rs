//! A box that a guest is taken out of, and how to leave it as it was.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::outcome::UpdateError;
use super::parties::NamedFd;
use super::state_fd_name;
use crate::boxes::AnyBox;
use crate::claim::Hold;
use crate::error::{BoxError, Operation};
use crate::listing::FdInfo;
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

/// A box that somebody takes a guest out of. Of each descriptor taken a duplicate goes back at
/// once: a program that is killed on the way leaves everything for the next one.
#[derive(Debug)]
pub(super) struct Contents<S: BoxStore> {
    /// `None` once committed or put back.
    open: Option<S::Open>,
    /// Whether the box is sealed when everything is back.
    seals: bool,
    hold: Hold,
    claim: Option<S::Claim>,
    /// What was in the box when it was opened. From then on it is this program's: asking again
    /// would only make a guest wait.
    listed: Vec<FdInfo>,
    taken: Vec<FdName>,
    /// Duplicates that the box did not take back.
    stranded: Vec<NamedFd>,
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
            stranded: Vec::new(),
        };
        contents.listed = contents.opened(&state_fd_name())?.fds()?;
        Ok(contents)
    }

    fn opened(&self, name: &FdName) -> Result<&S::Open, BoxError> {
        let gone = || BoxError::new(Operation::Get, format!("'{name}'"), Errno::NODEV);
        self.open.as_ref().ok_or_else(gone)
    }

    /// There is a guest in the box. If it was open though nobody else works on it, a program that
    /// was killed left it so: it is sealed when everything is back, and can cross a kexec again.
    pub(super) fn has_guest(&mut self) {
        self.seals |= self.hold == Hold::Exclusive;
    }

    pub(super) fn take(&mut self, name: &FdName) -> Result<OwnedFd, UpdateError> {
        let open = self.opened(name)?;
        let fd = open.get(name)?;
        let copy = match fd.try_clone() {
            Ok(copy) => copy,
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
                self.give_back(name, fd)?;
                return Err(BoxError::new(Operation::Get, format!("'{name}'"), errno).into());
            }
        };
        self.give_back(name, copy)?;
        self.taken.push(name.clone());
        Ok(fd)
    }

    fn give_back(&mut self, name: &FdName, fd: OwnedFd) -> Result<(), UpdateError> {
        let refused = match self.opened(name)?.put(name, fd) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        self.stranded.push(NamedFd {
            name: name.clone(),
            fd: refused.fd,
        });
        Err(refused.error.into())
    }

    /// The descriptors that nobody has taken.
    pub(super) fn untaken(&self) -> impl Iterator<Item = &FdInfo> {
        self.listed
            .iter()
            .filter(|info| !self.taken.contains(&info.name))
    }

    /// Takes out for good what a resume cannot do without, so that nobody can run the guest a
    /// second time. The rest goes with the box, which is this program's until then.
    pub(super) fn commit(&mut self, state: &FdName) -> Result<Option<S::Claim>, UpdateError> {
        drop(self.opened(state)?.get(state)?);
        self.open = None;
        self.stranded.clear();
        Ok(self.claim.take())
    }

    /// Puts back what is not there, and seals.
    pub(super) fn put_back(&mut self) -> Undone {
        let mut undone = Undone::default();
        let Some(open) = self.open.take() else {
            return undone;
        };
        for NamedFd { name, fd } in self.stranded.drain(..) {
            if let Err(refused) = open.put(&name, fd) {
                undone.problems.push(refused.error.to_string());
                undone.lost.push(name);
            }
        }
        if self.seals
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
