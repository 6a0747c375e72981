//! A box that was opened for this process by one with more privileges.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use crate::boxes::{AnyBox, OpenBox, SealedBox};
use crate::claim::BoxClaim;
use crate::control::{BoxInfo, Info};
use crate::error::{BoxError, Operation};
use crate::handle::BoxHandle;
use crate::hold::Hold;
use crate::name::BoxName;
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};

/// A [`BoxStore`] with a single box, whose descriptor was passed over a socket or inherited: for an
/// unprivileged VMM, whose coordinator creates and deletes the box.
///
/// - `create` accepts the box as passed, open and empty;
/// - `delete` leaves it to whoever created it;
/// - `boxes` lists it if it could not be created, and no other;
/// - `info` is what the module reported to the coordinator;
/// - `claim` is a lock on the descriptor's open file. It conflicts with a claim through another
///   open of the box by the coordinator, but not with one through this same file.
#[derive(Debug)]
pub struct PassedBox {
    name: BoxName,
    info: Info,
    fd: OnceLock<OwnedFd>,
}

impl PassedBox {
    /// A box that has not been passed yet.
    #[must_use]
    pub fn expected(name: BoxName, info: Info) -> Self {
        Self {
            name,
            info,
            fd: OnceLock::new(),
        }
    }

    /// A box and its descriptor.
    ///
    /// # Errors
    /// As [`AnyBox::from_fd`].
    pub fn new(name: BoxName, info: Info, fd: OwnedFd) -> Result<Self, BoxError> {
        let passed = Self::expected(name, info);
        passed.receive(fd)?;
        Ok(passed)
    }

    /// Accepts the box's descriptor.
    ///
    /// # Errors
    /// As [`AnyBox::from_fd`]; EEXIST if the box was already passed.
    pub fn receive(&self, fd: OwnedFd) -> Result<(), BoxError> {
        AnyBox::from_fd(self.duplicate(fd.as_fd())?, self.name.clone())?;
        let twice = |_| self.error(Operation::OpenBox, Errno::EXIST);
        self.fd.set(fd).map_err(twice)
    }

    fn error(&self, operation: Operation, errno: Errno) -> BoxError {
        BoxError::new(operation, format!("box {}", self.name), errno)
    }

    fn duplicate(&self, fd: BorrowedFd<'_>) -> Result<OwnedFd, BoxError> {
        let copy = fd.try_clone_to_owned();
        copy.map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
            self.error(Operation::OpenBox, errno)
        })
    }

    /// The descriptor, if `name` is this box's and it has been passed.
    fn get(&self, name: &BoxName, operation: Operation) -> Result<OwnedFd, BoxError> {
        let missing = || BoxError::new(operation, format!("box {name}"), Errno::NOENT);
        let fd = self.fd.get().filter(|_| *name == self.name);
        self.duplicate(fd.ok_or_else(missing)?.as_fd())
    }
}

/// A store with a passed box: [`PassedBox`], or a `FakePassedBox` with the feature `fake`.
pub trait PassedStore: BoxStore {
    /// See [`PassedBox::receive`].
    ///
    /// # Errors
    /// As there.
    fn receive(&self, fd: OwnedFd) -> Result<(), BoxError>;
}

impl PassedStore for PassedBox {
    fn receive(&self, fd: OwnedFd) -> Result<(), BoxError> {
        Self::receive(self, fd)
    }
}

impl<S: PassedStore + ?Sized> PassedStore for Arc<S> {
    fn receive(&self, fd: OwnedFd) -> Result<(), BoxError> {
        (**self).receive(fd)
    }
}

impl BoxStore for PassedBox {
    type Open = OpenBox;
    type Sealed = SealedBox;
    type Claim = BoxClaim;

    fn create(&self, name: &BoxName) -> Result<OpenBox, BoxError> {
        let fd = self.get(name, Operation::Create)?;
        match AnyBox::from_fd(fd, name.clone())? {
            AnyBox::Open(open) if open.fds()?.is_empty() => Ok(open),
            _ => Err(self.error(Operation::Create, Errno::EXIST)),
        }
    }

    fn delete(&self, _: &BoxName) -> Result<(), BoxError> {
        Ok(())
    }

    fn boxes(&self) -> Result<Vec<BoxInfo>, BoxError> {
        if self.fd.get().is_none() {
            return Ok(Vec::new());
        }
        let (sealed, fds) = match self.open_box(&self.name)? {
            AnyBox::Open(open) => (false, OpenFdBox::fds(&open)?.len()),
            AnyBox::Sealed(sealed) => (true, SealedFdBox::fds(&sealed)?.len()),
        };
        let info = BoxInfo {
            name: self.name.clone(),
            sealed,
            fds: u32::try_from(fds).unwrap_or(u32::MAX),
        };
        let is_used = sealed || fds > 0;
        Ok(Vec::from_iter(is_used.then_some(info)))
    }

    fn info(&self) -> Result<Info, BoxError> {
        Ok(self.info)
    }

    fn open_box(&self, name: &BoxName) -> Result<AnyBox, BoxError> {
        AnyBox::from_fd(self.get(name, Operation::OpenBox)?, name.clone())
    }

    fn claim(&self, name: &BoxName, hold: Hold) -> Result<BoxClaim, BoxError> {
        let fd = self.get(name, Operation::Claim)?;
        let handle = BoxHandle::passed(fd).map_err(|errno| self.error(Operation::Claim, errno))?;
        BoxClaim::of(handle.0, name, hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd() -> OwnedFd {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        rustix::fs::memfd_create("x", flags).unwrap()
    }

    #[test]
    fn what_is_no_box_is_refused() {
        let name = BoxName::new("vm0").unwrap();
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        for fd in [memfd(), null] {
            let error = PassedBox::new(name.clone(), Info::default(), fd).unwrap_err();
            assert_eq!(error.errno(), Errno::BADF, "{error}");
        }
    }

    #[test]
    fn nothing_works_before_the_box_is_here() {
        let name = BoxName::new("vm0").unwrap();
        let passed = PassedBox::expected(name.clone(), Info::default());
        assert_eq!(passed.boxes().unwrap(), []);
        assert_eq!(passed.create(&name).unwrap_err().errno(), Errno::NOENT);
        assert_eq!(passed.open_box(&name).unwrap_err().errno(), Errno::NOENT);
        let claim = passed.claim(&name, Hold::Shared);
        assert_eq!(claim.unwrap_err().errno(), Errno::NOENT);
    }
}
