//! The boxes as traits, so that code based on them can be tested without a kernel.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::boxes::{AnyBox, OpenBox, PutError, SealFailed, SealedBox, UnsealFailed};
use crate::claim::BoxClaim;
use crate::control::{BoxInfo, Control, Info};
use crate::error::BoxError;
use crate::hold::Hold;
use crate::kind::Kind;
use crate::listing::FdInfo;
use crate::name::{BoxName, FdName};
use crate::unseal_error::LostFd;

/// Where boxes live: [`Control`], [`PassedBox`](crate::PassedBox), or a `FakeStore` with the
/// feature `fake`. The methods mean the same as those of [`Control`].
pub trait BoxStore {
    /// A box that accepts and returns descriptors.
    type Open: OpenFdBox<Sealed = Self::Sealed>;
    /// A sealed box.
    type Sealed: SealedFdBox<Open = Self::Open>;
    /// A claim: proof that a process is working on a box.
    type Claim: Debug;

    /// See [`Control::create`].
    ///
    /// # Errors
    /// As there.
    fn create(&self, name: &BoxName) -> Result<Self::Open, BoxError>;

    /// See [`Control::delete`].
    ///
    /// # Errors
    /// As there.
    fn delete(&self, name: &BoxName) -> Result<(), BoxError>;

    /// See [`Control::boxes`].
    ///
    /// # Errors
    /// As there.
    fn boxes(&self) -> Result<Vec<BoxInfo>, BoxError>;

    /// See [`Control::info`].
    ///
    /// # Errors
    /// As there.
    fn info(&self) -> Result<Info, BoxError>;

    /// See [`Control::open_box`].
    ///
    /// # Errors
    /// As there.
    fn open_box(&self, name: &BoxName) -> Result<AnyBox<Self::Open, Self::Sealed>, BoxError>;

    /// See [`Control::claim`].
    ///
    /// # Errors
    /// As there.
    fn claim(&self, name: &BoxName, hold: Hold) -> Result<Self::Claim, BoxError>;
}

/// A box that accepts and returns descriptors; see [`OpenBox`].
pub trait OpenFdBox: Debug + Sized {
    /// The box when sealed.
    type Sealed: SealedFdBox<Open = Self>;

    /// See [`OpenBox::put`].
    ///
    /// # Errors
    /// As there.
    fn put(&self, name: &FdName, fd: OwnedFd) -> Result<(), PutError>;

    /// See [`OpenBox::get`].
    ///
    /// # Errors
    /// As there.
    fn get(&self, name: &FdName) -> Result<OwnedFd, BoxError>;

    /// See [`OpenBox::get_and_keep`].
    ///
    /// # Errors
    /// As there.
    fn get_and_keep(&self, name: &FdName) -> Result<OwnedFd, BoxError>;

    /// See [`OpenBox::fds`].
    ///
    /// # Errors
    /// As there.
    fn fds(&self) -> Result<Vec<FdInfo>, BoxError>;

    /// See [`OpenBox::seal`].
    ///
    /// # Errors
    /// As there.
    fn seal(self) -> Result<Self::Sealed, SealFailed<Self>>;

    /// See [`OpenBox::lost`].
    ///
    /// # Errors
    /// As there.
    fn lost(&self) -> Result<Vec<LostFd>, BoxError>;
}

/// A sealed box; see [`SealedBox`].
pub trait SealedFdBox: Debug + Sized {
    /// The box when unsealed.
    type Open: OpenFdBox<Sealed = Self>;

    /// See [`SealedBox::fds`].
    ///
    /// # Errors
    /// As there.
    fn fds(&self) -> Result<Vec<FdInfo>, BoxError>;

    /// See [`SealedBox::get_and_keep`].
    ///
    /// # Errors
    /// As there.
    fn get_and_keep(&self, name: &FdName) -> Result<OwnedFd, BoxError>;

    /// See [`SealedBox::unseal`].
    ///
    /// # Errors
    /// As there.
    fn unseal(self) -> Result<Self::Open, UnsealFailed<Self>>;

    /// See [`SealedBox::salvage`].
    ///
    /// # Errors
    /// As there.
    fn salvage(self) -> Result<Self::Open, UnsealFailed<Self>>;
}

/// The kinds of files in sealed boxes, which go to the next kernel along with any update. A box
/// that somebody opens meanwhile is not included.
pub fn sealed_kinds<S: BoxStore>(store: &S) -> BTreeSet<Kind> {
    let boxes = store.boxes().unwrap_or_default();
    let sealed = boxes.iter().filter(|info| info.sealed);
    sealed
        .filter_map(|info| match store.open_box(&info.name) {
            Ok(AnyBox::Sealed(sealed)) => sealed.fds().ok(),
            _ => None,
        })
        .flatten()
        .map(|fd| Kind::of(&fd.kind))
        .collect()
}

macro_rules! store_behind {
    ($pointer:ty) => {
        impl<S: BoxStore + ?Sized> BoxStore for $pointer {
            type Open = S::Open;
            type Sealed = S::Sealed;
            type Claim = S::Claim;

            fn create(&self, name: &BoxName) -> Result<S::Open, BoxError> {
                (**self).create(name)
            }

            fn delete(&self, name: &BoxName) -> Result<(), BoxError> {
                (**self).delete(name)
            }

            fn boxes(&self) -> Result<Vec<BoxInfo>, BoxError> {
                (**self).boxes()
            }

            fn info(&self) -> Result<Info, BoxError> {
                (**self).info()
            }

            fn open_box(&self, name: &BoxName) -> Result<AnyBox<S::Open, S::Sealed>, BoxError> {
                (**self).open_box(name)
            }

            fn claim(&self, name: &BoxName, hold: Hold) -> Result<S::Claim, BoxError> {
                (**self).claim(name, hold)
            }
        }
    };
}

store_behind!(&S);
store_behind!(Arc<S>);

impl BoxStore for Control {
    type Open = OpenBox;
    type Sealed = SealedBox;
    type Claim = BoxClaim;

    fn create(&self, name: &BoxName) -> Result<OpenBox, BoxError> {
        Self::create(self, name)
    }

    fn delete(&self, name: &BoxName) -> Result<(), BoxError> {
        Self::delete(self, name)
    }

    fn boxes(&self) -> Result<Vec<BoxInfo>, BoxError> {
        Self::boxes(self)
    }

    fn info(&self) -> Result<Info, BoxError> {
        Self::info(self)
    }

    fn open_box(&self, name: &BoxName) -> Result<AnyBox, BoxError> {
        Self::open_box(self, name)
    }

    fn claim(&self, name: &BoxName, hold: Hold) -> Result<BoxClaim, BoxError> {
        Self::claim(self, name, hold)
    }
}

impl OpenFdBox for OpenBox {
    type Sealed = SealedBox;

    fn put(&self, name: &FdName, fd: OwnedFd) -> Result<(), PutError> {
        Self::put(self, name, fd)
    }

    fn get(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        Self::get(self, name)
    }

    fn get_and_keep(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        Self::get_and_keep(self, name)
    }

    fn fds(&self) -> Result<Vec<FdInfo>, BoxError> {
        Self::fds(self)
    }

    fn seal(self) -> Result<SealedBox, SealFailed> {
        Self::seal(self)
    }

    fn lost(&self) -> Result<Vec<LostFd>, BoxError> {
        Self::lost(self)
    }
}

impl SealedFdBox for SealedBox {
    type Open = OpenBox;

    fn get_and_keep(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        Self::get_and_keep(self, name)
    }

    fn fds(&self) -> Result<Vec<FdInfo>, BoxError> {
        Self::fds(self)
    }

    fn unseal(self) -> Result<OpenBox, UnsealFailed> {
        Self::unseal(self)
    }

    fn salvage(self) -> Result<OpenBox, UnsealFailed> {
        Self::salvage(self)
    }
}
