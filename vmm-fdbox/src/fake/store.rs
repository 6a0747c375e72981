//! The box traits for in-memory boxes.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::passed::FakePassedBox;
use super::world::{Content, Fault, World};
use crate::abi;
use crate::boxes::{AnyBox, PutError, SealFailed, UnsealFailed};
use crate::control::{BoxInfo, Features, Info};
use crate::error::{BoxError, Operation};
use crate::hold::Hold;
use crate::lending::{LendAct, Lending};
use crate::listing::FdInfo;
use crate::name::{BoxName, FdName};
use crate::seal_error::SealError;
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};
use crate::unseal_error::{LostFd, LostReason, UnsealError};

/// In-memory boxes. Clones share them.
#[derive(Debug, Clone)]
pub struct FakeStore(Arc<Mutex<World>>);

impl Default for FakeStore {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeStore {
    /// No boxes; KHO is on and every kind can be kept.
    #[must_use]
    pub fn new() -> Self {
        let features = abi::FDBOX_FEATURE_KHO
            | abi::FDBOX_FEATURE_MEMFD
            | abi::FDBOX_FEATURE_KVM_VM
            | abi::FDBOX_FEATURE_GUEST_MEMFD
            | abi::FDBOX_FEATURE_IOMMUFD
            | abi::FDBOX_FEATURE_VFIO_PCI
            | abi::FDBOX_FEATURE_HUGETLB;
        let info = Info {
            uapi_version: abi::FDBOX_UAPI_VERSION,
            handover_version: 1,
            features: Features::from_bits(features),
            ..Info::default()
        };
        let (boxes, faults, dependencies, lost, claims) = Default::default();
        Self(Arc::new(Mutex::new(World {
            boxes,
            faults,
            dependencies,
            lost,
            info,
            claims,
        })))
    }

    /// Sets what [`BoxStore::info`] returns from now on.
    pub fn set_info(&self, info: Info) {
        self.world().info = info;
    }

    /// Makes an operation fail once, after it succeeded `skip` times.
    pub fn fail(&self, operation: Operation, skip: usize, errno: Errno) {
        self.world().faults.push(Fault {
            operation,
            skip,
            errno,
        });
    }

    /// Makes `dependent` impossible to seal unless `on` is in the box as well.
    pub fn depends(&self, dependent: &FdName, on: &FdName) {
        self.world()
            .dependencies
            .push((dependent.clone(), on.clone()));
    }

    /// Makes descriptors of this name lost, as if the last kernel had not preserved their memory.
    pub fn lose(&self, name: &FdName) {
        self.world().lost.push(LostFd {
            name: name.clone(),
            kind: "fake".to_owned(),
            errno: Errno::IO,
            reason: LostReason::Memory,
            message: "its memory was not kept by the last kernel".to_owned(),
        });
    }

    /// One of these boxes, as passed to a VMM.
    #[must_use]
    pub fn passed(&self, name: BoxName) -> FakePassedBox {
        FakePassedBox::new(self.clone(), name)
    }

    /// Ends every claim, as if the processes that hold them were killed.
    pub fn end_claims(&self) {
        self.world().claims.clear();
    }

    /// Whether a box is sealed and what is in it; `None` if there is no such box.
    #[must_use]
    pub fn content(&self, name: &BoxName) -> Option<(bool, Vec<FdName>)> {
        let world = self.world();
        let content = world.boxes.get(name)?;
        Some((
            content.sealed,
            content.fds.iter().map(|(name, _)| name.clone()).collect(),
        ))
    }

    /// Changes the lease of a box, as its boat would.
    pub fn set_lending(&self, name: &BoxName, lending: Lending) {
        if let Some(content) = self.world().boxes.get_mut(name) {
            content.lending = Some(lending);
        }
    }

    pub(crate) fn act_on_lease(&self, name: &BoxName, act: LendAct) -> Result<Lending, BoxError> {
        let lent = self.world().lend(name, act);
        lent.map_err(on_box(Operation::Lend, name))
    }

    pub(crate) fn set_owner(&self, name: &BoxName, owner: (u32, u32)) -> Result<(), BoxError> {
        let mut world = self.world();
        let give = on_box(Operation::Give, name);
        let content = world.fault(Operation::Give).and_then(|()| world.open(name));
        content.map_err(give)?.owner = owner;
        Ok(())
    }

    pub(crate) fn owner_of(&self, name: &BoxName) -> Result<(u32, u32), BoxError> {
        let world = self.world();
        let content = world.boxes.get(name).ok_or(Errno::NOENT);
        Ok(content.map_err(on_box(Operation::OpenBox, name))?.owner)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn on_box(operation: Operation, name: &BoxName) -> impl FnOnce(Errno) -> BoxError {
    move |errno| BoxError::new(operation, format!("box {name}"), errno)
}

impl BoxStore for FakeStore {
    type Open = FakeOpenBox;
    type Sealed = FakeSealedBox;
    type Claim = FakeClaim;

    fn create(&self, name: &BoxName) -> Result<FakeOpenBox, BoxError> {
        self.world()
            .create(name)
            .map_err(on_box(Operation::Create, name))?;
        Ok(FakeOpenBox {
            store: self.clone(),
            name: name.clone(),
        })
    }

    fn delete(&self, name: &BoxName) -> Result<(), BoxError> {
        self.world()
            .delete(name)
            .map_err(on_box(Operation::Delete, name))
    }

    fn boxes(&self) -> Result<Vec<BoxInfo>, BoxError> {
        let mut world = self.world();
        let list = |errno| BoxError::new(Operation::List, "boxes", errno);
        world.fault(Operation::List).map_err(list)?;
        let info = |(name, content): (&BoxName, &Content)| BoxInfo {
            name: name.clone(),
            sealed: content.sealed,
            fds: u32::try_from(content.fds.len()).unwrap_or(u32::MAX),
        };
        Ok(world.boxes.iter().map(info).collect())
    }

    fn info(&self) -> Result<Info, BoxError> {
        let mut world = self.world();
        let info = |errno| BoxError::new(Operation::Info, "the fdbox module", errno);
        world.fault(Operation::Info).map_err(info)?;
        Ok(Info {
            boxes: world.boxes.len() as u64,
            ..world.info
        })
    }

    fn open_box(&self, name: &BoxName) -> Result<AnyBox<FakeOpenBox, FakeSealedBox>, BoxError> {
        let mut world = self.world();
        world
            .fault(Operation::OpenBox)
            .map_err(on_box(Operation::OpenBox, name))?;
        let content = world.boxes.get(name).ok_or(Errno::NOENT);
        let sealed = content.map_err(on_box(Operation::OpenBox, name))?.sealed;
        let (store, name) = (self.clone(), name.clone());
        Ok(if sealed {
            AnyBox::Sealed(FakeSealedBox { store, name })
        } else {
            AnyBox::Open(FakeOpenBox { store, name })
        })
    }

    fn claim(&self, name: &BoxName, hold: Hold) -> Result<FakeClaim, BoxError> {
        let holder = self.world().claim(name, hold);
        let holder = holder.map_err(on_box(Operation::Claim, name))?;
        Ok(FakeClaim { _holder: holder })
    }
}

/// A claim on a box of a [`FakeStore`], until it is dropped.
#[derive(Debug)]
pub struct FakeClaim {
    _holder: Arc<()>,
}

/// An open box of a [`FakeStore`].
#[derive(Debug)]
pub struct FakeOpenBox {
    store: FakeStore,
    name: BoxName,
}

impl FakeOpenBox {
    fn get_failed(&self, name: &FdName, errno: Errno) -> BoxError {
        let target = format!("'{name}' in box {}", self.name);
        BoxError::new(Operation::Get, target, errno)
    }
}

impl OpenFdBox for FakeOpenBox {
    type Sealed = FakeSealedBox;

    fn put(&self, name: &FdName, fd: OwnedFd) -> Result<(), PutError> {
        match self.store.world().put(&self.name, name) {
            Ok(content) => {
                content.fds.push((name.clone(), fd));
                Ok(())
            }
            Err(errno) => {
                let target = format!("'{name}' in box {}", self.name);
                Err(PutError {
                    fd,
                    error: BoxError::new(Operation::Put, target, errno),
                })
            }
        }
    }

    fn get(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        let got = self.store.world().get(&self.name, name);
        got.map_err(|errno| self.get_failed(name, errno))
    }

    fn get_and_keep(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        let got = self.store.world().get_and_keep(&self.name, name);
        got.map_err(|errno| self.get_failed(name, errno))
    }

    fn fds(&self) -> Result<Vec<FdInfo>, BoxError> {
        self.store
            .world()
            .list(&self.name)
            .map_err(on_box(Operation::List, &self.name))
    }

    fn lost(&self) -> Result<Vec<LostFd>, BoxError> {
        let lost = self.store.world().lost(&self.name);
        lost.map_err(on_box(Operation::List, &self.name))
    }

    fn seal(self) -> Result<FakeSealedBox, SealFailed<Self>> {
        let sealed = self.store.world().seal(&self.name);
        match sealed {
            Ok(()) => Ok(FakeSealedBox {
                store: self.store,
                name: self.name,
            }),
            Err((errno, report)) => {
                let error = on_box(Operation::Seal, &self.name)(errno);
                Err(SealFailed {
                    open: self,
                    error: SealError { error, report },
                })
            }
        }
    }
}

/// A sealed box of a [`FakeStore`].
#[derive(Debug)]
pub struct FakeSealedBox {
    store: FakeStore,
    name: BoxName,
}

impl SealedFdBox for FakeSealedBox {
    type Open = FakeOpenBox;

    fn get_and_keep(&self, name: &FdName) -> Result<OwnedFd, BoxError> {
        let got = self.store.world().get_away(&self.name, name);
        got.map_err(|errno| {
            let target = format!("'{name}' in box {}", self.name);
            BoxError::new(Operation::Get, target, errno)
        })
    }

    fn fds(&self) -> Result<Vec<FdInfo>, BoxError> {
        self.store
            .world()
            .list(&self.name)
            .map_err(on_box(Operation::List, &self.name))
    }

    fn unseal(self) -> Result<FakeOpenBox, UnsealFailed<Self>> {
        let unsealed = self.store.world().unseal(&self.name);
        self.opened(Operation::Unseal, unsealed)
    }

    fn salvage(self) -> Result<FakeOpenBox, UnsealFailed<Self>> {
        let salvaged = self.store.world().salvage(&self.name);
        self.opened(
            Operation::Salvage,
            salvaged.map_err(|errno| (errno, Vec::new())),
        )
    }
}

impl FakeSealedBox {
    fn opened(
        self,
        how: Operation,
        done: Result<(), (Errno, Vec<LostFd>)>,
    ) -> Result<FakeOpenBox, UnsealFailed<Self>> {
        match done {
            Ok(()) => Ok(FakeOpenBox {
                store: self.store,
                name: self.name,
            }),
            Err((errno, lost)) => {
                let error = on_box(how, &self.name)(errno);
                Err(UnsealFailed {
                    sealed: self,
                    error: UnsealError { error, lost },
                })
            }
        }
    }
}
