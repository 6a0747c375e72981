//! The boxes, as seen by the process that may create them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::boxes::AnyBox;
use crate::control::Control;
use crate::error::{BoxError, Operation};
use crate::hold::Hold;
use crate::lending::{LendAct, Lending};
use crate::member::Module;
use crate::name::BoxName;
use crate::owner::Owner;
use crate::seal_error::SealError;
use crate::statefd::SavedState;
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};
use crate::update::STATE_FD;

/// What was found in the box of a guest.
#[derive(Debug)]
pub enum WholeGuest {
    /// No guest, or not all of it.
    None,
    /// The guest, for anyone to take.
    Waits,
    /// The guest. The box could not be sealed again: the guest can be resumed in this kernel, and a
    /// kexec would lose it.
    WaitsInOpenBox(SealError),
}

/// Where a coordinator creates boxes: [`Control`], or a `FakeStore` with the feature `fake`.
pub trait Boxes: BoxStore + Send + Sync {
    /// Opens a new descriptor of a box, to pass it on.
    ///
    /// # Errors
    /// ENOENT if there is no such box.
    fn descriptor(&self, name: &BoxName) -> Result<OwnedFd, BoxError>;

    /// Changes the owner of a box, see [`Owner`].
    ///
    /// # Errors
    /// EPERM without CAP_CHOWN, ENOENT if there is no such box.
    fn give(&self, name: &BoxName, owner: Owner) -> Result<(), BoxError>;

    /// The owner of a box, as set by the process that gave it away.
    ///
    /// # Errors
    /// ENOENT if there is no such box.
    fn owner(&self, name: &BoxName) -> Result<Owner, BoxError>;

    /// Whether its boxes are still kept: a keeper may have ended. Called while guests wait. Default:
    /// they are.
    ///
    /// # Errors
    /// As [`Control::check`].
    fn check(&self) -> Result<(), BoxError> {
        Ok(())
    }

    /// Makes sure that the next kernel will find every sealed box; one that came from the last kernel may not be ready.
    /// Default: it is.
    ///
    /// # Errors
    /// It cannot be, and a kexec would lose it.
    fn make_ready(&self) -> Result<(), BoxError> {
        Ok(())
    }

    /// Acts on the lease of a box, or looks at it: see [`Control::lend`]. Default: there is no lifeboat.
    ///
    /// # Errors
    /// As there.
    fn lend(&self, name: &BoxName, act: LendAct) -> Result<Lending, BoxError> {
        let _ = act;
        let target = format!("box {name}");
        Err(BoxError::new(Operation::Lend, target, Errno::NXIO))
    }

    /// Whether the lifeboat has the box, or gives it back just now.
    fn is_away(&self, name: &BoxName) -> bool {
        let lent = self.lend(name, LendAct::Look);
        lent.is_ok_and(|lending| lending.holder.is_away())
    }

    /// What members need to know about the module.
    ///
    /// # Errors
    /// As [`BoxStore::info`].
    fn module(&self) -> Result<Module, BoxError> {
        Ok(self.info()?.into())
    }

    /// Creates an empty box, or reuses one left by an update that ended half-way.
    ///
    /// # Errors
    /// EEXIST if the box is not empty, or another process is working on it.
    fn make(&self, name: &BoxName) -> Result<(), BoxError> {
        match self.create(name) {
            Err(error) if error.errno() == Errno::EXIST && self.is_free(name)? => Ok(()),
            made => made.map(drop),
        }
    }

    /// Whether [`make`](Self::make) would succeed for this name: there is no such box, or an empty
    /// one that nobody is working on.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN.
    fn is_free(&self, name: &BoxName) -> Result<bool, BoxError> {
        let Some(info) = self.boxes()?.into_iter().find(|info| info.name == *name) else {
            return Ok(true);
        };
        Ok(!info.sealed && info.fds == 0 && self.claim(name, Hold::Exclusive).is_ok())
    }

    /// Whether the box contains a guest's state, which somebody could take.
    ///
    /// # Errors
    /// ENOENT or ENODEV if there is no such box.
    fn has_guest(&self, name: &BoxName) -> Result<bool, BoxError> {
        let fds = match self.open_box(name)? {
            AnyBox::Open(open) => open.fds()?,
            AnyBox::Sealed(sealed) => sealed.fds()?,
        };
        Ok(fds
            .iter()
            .any(|fd| fd.name.as_bytes() == STATE_FD.as_bytes()))
    }

    /// Whether a whole guest is in the box: its state is written completely. A sealed box is
    /// unsealed for this and sealed again, which takes as long as a SEAL.
    ///
    /// # Errors
    /// ENOENT, ENODEV if there is no such box or no state in it; those of UNSEAL.
    fn find_whole_guest(&self, name: &BoxName) -> Result<WholeGuest, BoxError> {
        let is_whole = |open: &Self::Open| {
            let state = open.get_and_keep(&crate::update::state_fd_name())?;
            Ok(SavedState::read(state).is_ok())
        };
        match self.open_box(name)? {
            AnyBox::Open(open) => match is_whole(&open)? {
                true => Ok(WholeGuest::Waits),
                false => Ok(WholeGuest::None),
            },
            AnyBox::Sealed(sealed) => {
                let open = sealed.unseal().map_err(|failed| failed.error.error)?;
                let whole = is_whole(&open);
                let sealed = open.seal();
                Ok(match (whole?, sealed) {
                    (false, _) => WholeGuest::None,
                    (true, Ok(_)) => WholeGuest::Waits,
                    (true, Err(failed)) => WholeGuest::WaitsInOpenBox(failed.error),
                })
            }
        }
    }

    /// Deletes the box of a guest that was rolled back, if it is empty.
    ///
    /// # Errors
    /// EBUSY if something is left in it; it stays.
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
    /// Those of SEAL.
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
        Ok(self.node(name)?.into_fd())
    }

    fn give(&self, name: &BoxName, owner: Owner) -> Result<(), BoxError> {
        Self::give(self, name, owner)
    }

    fn owner(&self, name: &BoxName) -> Result<Owner, BoxError> {
        Self::owner(self, name)
    }

    fn check(&self) -> Result<(), BoxError> {
        Self::check(self)
    }

    fn make_ready(&self) -> Result<(), BoxError> {
        Self::make_ready(self)
    }

    fn lend(&self, name: &BoxName, act: LendAct) -> Result<Lending, BoxError> {
        Self::lend(self, name, act)
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

    fn check(&self) -> Result<(), BoxError> {
        (**self).check()
    }

    fn make_ready(&self) -> Result<(), BoxError> {
        (**self).make_ready()
    }

    fn lend(&self, name: &BoxName, act: LendAct) -> Result<Lending, BoxError> {
        (**self).lend(name, act)
    }
}

/// Any descriptor will do for in-memory boxes.
#[cfg(any(test, feature = "fake"))]
impl Boxes for crate::fake::FakeStore {
    fn lend(&self, name: &BoxName, act: LendAct) -> Result<Lending, BoxError> {
        self.act_on_lease(name, act)
    }

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
