//! The boxes, as the one who may make them sees them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use crate::boxes::{AnyBox, DIRECTORY};
use crate::claim::Hold;
use crate::control::Control;
use crate::error::{BoxError, Operation};
use crate::member::Module;
use crate::name::BoxName;
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};
use crate::update::STATE_FD;

/// User and group of a VMM: those of its box, as long as that is not root's.
///
/// A box's node has an owner, which crosses a kexec with it. Nobody opens a box by being its owner, and nobody but a
/// process with CAP_CHOWN changes it: so a coordinator leaves to the one of the next host as whom the guest's VMM ran,
/// out of reach of that VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

impl Owner {
    /// Whose boxes are that nobody was given.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// Where a coordinator makes boxes: [`Control`], or with feature `fake` a `FakeStore`.
pub trait Boxes: BoxStore + Send + Sync {
    /// Opens a box anew, to pass the descriptor on.
    ///
    /// # Errors
    /// ENOENT there is no such box.
    fn descriptor(&self, name: &BoxName) -> Result<OwnedFd, BoxError>;

    /// Makes a box somebody's: see [`Owner`].
    ///
    /// # Errors
    /// EPERM without CAP_CHOWN, ENOENT there is no such box.
    fn give(&self, name: &BoxName, owner: Owner) -> Result<(), BoxError>;

    /// Whose a box is, as the process says that gave it.
    ///
    /// # Errors
    /// ENOENT there is no such box.
    fn owner(&self, name: &BoxName) -> Result<Owner, BoxError>;

    /// What its members are told of the module.
    ///
    /// # Errors
    /// As [`BoxStore::info`].
    fn module(&self) -> Result<Module, BoxError> {
        Ok(self.info()?.into())
    }

    /// Makes an empty box, or takes one that an update left which ended half-way.
    ///
    /// # Errors
    /// EEXIST there is something in it, or somebody works on it.
    fn make(&self, name: &BoxName) -> Result<(), BoxError> {
        match self.create(name) {
            Err(error) if error.errno() == Errno::EXIST && self.is_free(name)? => Ok(()),
            made => made.map(drop),
        }
    }

    /// Whether a box of this name can be [made](Self::make): there is none, or an empty one that
    /// nobody works on.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN.
    fn is_free(&self, name: &BoxName) -> Result<bool, BoxError> {
        let Some(info) = self.boxes()?.into_iter().find(|info| info.name == *name) else {
            return Ok(true);
        };
        Ok(!info.sealed && info.fds == 0 && self.claim(name, Hold::Exclusive).is_ok())
    }

    /// Whether there is the state of a guest in the box, so that somebody can take it.
    ///
    /// # Errors
    /// ENOENT, ENODEV there is no such box.
    fn has_guest(&self, name: &BoxName) -> Result<bool, BoxError> {
        let fds = match self.open_box(name)? {
            AnyBox::Open(open) => open.fds()?,
            AnyBox::Sealed(sealed) => sealed.fds()?,
        };
        Ok(fds
            .iter()
            .any(|fd| fd.name.as_bytes() == STATE_FD.as_bytes()))
    }

    /// Deletes a box that a guest was rolled back out of, if nothing is left in it.
    ///
    /// # Errors
    /// EBUSY something is left in it; it stays.
    fn delete_empty(&self, name: &BoxName) -> Result<(), BoxError> {
        match self.open_box(name) {
            Ok(AnyBox::Open(open)) if open.fds()?.is_empty() => self.delete(name),
            Ok(_) => {
                let target = format!("box {name}");
                Err(BoxError::new(Operation::Delete, target, Errno::BUSY))
            }
            Err(error) if error.errno() == Errno::NOENT => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Seals a box with a guest in it that a VMM left open, so that it can cross a kexec.
    ///
    /// # Errors
    /// What SEAL says.
    fn seal_again(&self, name: &BoxName) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match self.open_box(name)? {
            AnyBox::Open(open) => match open.seal() {
                Ok(_) => Ok(()),
                Err(failed) => Err(failed.error.into()),
            },
            AnyBox::Sealed(_) => Ok(()),
        }
    }
}

impl Boxes for Control {
    fn descriptor(&self, name: &BoxName) -> Result<OwnedFd, BoxError> {
        let of = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
                BoxError::new(Operation::OpenBox, format!("box {name}"), errno)
            })
        };
        match self.open_box(name)? {
            AnyBox::Open(open) => of(open.as_fd()),
            AnyBox::Sealed(sealed) => of(sealed.as_fd()),
        }
    }

    fn give(&self, name: &BoxName, owner: Owner) -> Result<(), BoxError> {
        use rustix::fs::{Gid, Uid, fchown};
        let fd = self.descriptor(name)?;
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        fchown(fd, Some(uid), Some(gid))
            .map_err(|errno| BoxError::new(Operation::Give, format!("box {name}"), errno))
    }

    fn owner(&self, name: &BoxName) -> Result<Owner, BoxError> {
        let path = [DIRECTORY.as_bytes(), b"/", name.as_bytes()].concat();
        let stat = rustix::fs::lstat(path)
            .map_err(|errno| BoxError::new(Operation::OpenBox, format!("box {name}"), errno))?;
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        Ok(Owner { uid, gid })
    }
}

impl<B: Boxes + ?Sized> Boxes for Arc<B> {
    fn descriptor(&self, name: &BoxName) -> Result<OwnedFd, BoxError> {
        (**self).descriptor(name)
    }

    fn give(&self, name: &BoxName, owner: Owner) -> Result<(), BoxError> {
        (**self).give(name, owner)
    }

    fn owner(&self, name: &BoxName) -> Result<Owner, BoxError> {
        (**self).owner(name)
    }
}

/// Any descriptor will do where boxes are in memory.
#[cfg(any(test, feature = "fake"))]
impl Boxes for crate::fake::FakeStore {
    fn descriptor(&self, name: &BoxName) -> Result<OwnedFd, BoxError> {
        self.open_box(name)?;
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let fd = rustix::fs::memfd_create("fake-box", flags);
        fd.map_err(|errno| BoxError::new(Operation::OpenBox, format!("box {name}"), errno))
    }

    fn give(&self, name: &BoxName, owner: Owner) -> Result<(), BoxError> {
        self.set_owner(name, (owner.uid, owner.gid))
    }

    fn owner(&self, name: &BoxName) -> Result<Owner, BoxError> {
        let (uid, gid) = self.owner_of(name)?;
        Ok(Owner { uid, gid })
    }
}
