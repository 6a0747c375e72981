//! The box traits for one box that is passed to a VMM.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::store::{FakeClaim, FakeOpenBox, FakeSealedBox, FakeStore, on_box};
use crate::boxes::AnyBox;
use crate::control::{BoxInfo, Info};
use crate::error::{BoxError, Operation};
use crate::hold::Hold;
use crate::name::BoxName;
use crate::passed::PassedStore;
use crate::store::{BoxStore, OpenFdBox};

/// A box of a [`FakeStore`] that is passed. Any descriptor will do for the box's own.
#[derive(Debug, Clone)]
pub struct FakePassedBox {
    store: FakeStore,
    name: BoxName,
    is_here: Arc<AtomicBool>,
}

impl FakePassedBox {
    pub(super) fn new(store: FakeStore, name: BoxName) -> Self {
        Self {
            store,
            name,
            is_here: Arc::default(),
        }
    }

    /// The box, as if it had already been passed.
    fn expected(&self, name: &BoxName, operation: Operation) -> Result<(), BoxError> {
        match self.is_here.load(Ordering::SeqCst) && *name == self.name {
            true => Ok(()),
            false => Err(on_box(operation, name)(Errno::NOENT)),
        }
    }
}

impl PassedStore for FakePassedBox {
    fn receive(&self, _: OwnedFd) -> Result<(), BoxError> {
        self.is_here.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl BoxStore for FakePassedBox {
    type Open = FakeOpenBox;
    type Sealed = FakeSealedBox;
    type Claim = FakeClaim;

    fn create(&self, name: &BoxName) -> Result<FakeOpenBox, BoxError> {
        self.expected(name, Operation::Create)?;
        match self.store.open_box(name)? {
            AnyBox::Open(open) if open.fds()?.is_empty() => Ok(open),
            _ => Err(on_box(Operation::Create, name)(Errno::EXIST)),
        }
    }

    fn delete(&self, _: &BoxName) -> Result<(), BoxError> {
        Ok(())
    }

    fn boxes(&self) -> Result<Vec<BoxInfo>, BoxError> {
        let mut boxes = self.store.boxes()?;
        let is_here = self.is_here.load(Ordering::SeqCst);
        let is_used = |info: &BoxInfo| info.sealed || info.fds > 0;
        boxes.retain(|info| is_here && info.name == self.name && is_used(info));
        Ok(boxes)
    }

    fn info(&self) -> Result<Info, BoxError> {
        self.store.info()
    }

    fn open_box(&self, name: &BoxName) -> Result<AnyBox<FakeOpenBox, FakeSealedBox>, BoxError> {
        self.expected(name, Operation::OpenBox)?;
        self.store.open_box(name)
    }

    fn claim(&self, name: &BoxName, hold: Hold) -> Result<FakeClaim, BoxError> {
        self.expected(name, Operation::Claim)?;
        self.store.claim(name, hold)
    }
}
