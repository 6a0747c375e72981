//! The control node: creating, deleting, listing and opening boxes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::abi;
use crate::boxes::{AnyBox, OpenBox, SealedBox};
use crate::claim::BoxClaim;
use crate::error::{BoxError, Operation};
use crate::handle::{BoxHandle, ControlHandle, DIRECTORY};
use crate::hold::Hold;
use crate::home::Home;
use crate::keeper::client;
use crate::lending::{LendAct, Lending};
use crate::listing::advance;
use crate::name::BoxName;
use crate::owner::Owner;

/// What kernel and module can do: `FDBOX_FEATURE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u64);

impl Features {
    /// Features from the bits of `FDBOX_INFO`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits, including those this library does not know.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    /// KHO is on: a sealed box reaches the next kernel.
    #[must_use]
    pub const fn kho(self) -> bool {
        self.has(abi::FDBOX_FEATURE_KHO)
    }

    /// This kernel was started with a handover.
    #[must_use]
    pub const fn kho_boot(self) -> bool {
        self.has(abi::FDBOX_FEATURE_KHO_BOOT)
    }

    /// memfds can be kept.
    #[must_use]
    pub const fn memfd(self) -> bool {
        self.has(abi::FDBOX_FEATURE_MEMFD)
    }

    /// KVM VMs can be kept.
    #[must_use]
    pub const fn kvm_vm(self) -> bool {
        self.has(abi::FDBOX_FEATURE_KVM_VM)
    }

    /// guest_memfds can be kept.
    #[must_use]
    pub const fn guest_memfd(self) -> bool {
        self.has(abi::FDBOX_FEATURE_GUEST_MEMFD)
    }

    /// iommufds can be kept.
    #[must_use]
    pub const fn iommufd(self) -> bool {
        self.has(abi::FDBOX_FEATURE_IOMMUFD)
    }

    /// VFIO PCI devices can be kept, with ongoing DMA.
    #[must_use]
    pub const fn vfio_pci(self) -> bool {
        self.has(abi::FDBOX_FEATURE_VFIO_PCI)
    }

    /// memfds of huge pages can be kept.
    #[must_use]
    pub const fn hugetlb(self) -> bool {
        self.has(abi::FDBOX_FEATURE_HUGETLB)
    }

    /// A handover arrived and was refused; the kernel log says why.
    #[must_use]
    pub const fn handover_refused(self) -> bool {
        self.has(abi::FDBOX_FEATURE_REFUSED)
    }
}

/// The answer of `FDBOX_INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Info {
    /// UAPI version of the module; this library knows
    /// [`FDBOX_UAPI_VERSION`](abi::FDBOX_UAPI_VERSION).
    pub uapi_version: u32,
    /// Major version of the handover ABI.
    pub handover_version: u32,
    /// The features available here.
    pub features: Features,
    /// Number of boxes.
    pub boxes: u64,
    /// Size of the blob for the next kernel, in bytes.
    pub handover_bytes: u64,
    /// Page extents that the blob keeps.
    pub handover_extents: u64,
    /// 4 KiB pages in those extents.
    pub handover_pages: u64,
    /// The home of the boxes.
    pub home: Home,
}

/// A box in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxInfo {
    /// Its name.
    pub name: BoxName,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Descriptors in it.
    pub fds: u32,
}

/// Where boxes are made: the module's control node, `/dev/fdbox/fdbox`, or a connection to a
/// [keeper](crate::keeper).
///
/// ```no_run
/// use vmm_fdbox::{BoxName, Control, FdName};
///
/// let control = Control::open()?;
/// let open = control.create(&BoxName::new("vm0")?)?;
/// let ram = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC)?;
/// open.put(&FdName::new("ram")?, ram)?;
/// let sealed = open.seal()?; // survives a kexec from here on
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Control {
    handle: ControlHandle,
    home: Home,
}

impl Control {
    /// Opens the control node.
    ///
    /// # Errors
    /// ENOENT if the module is not loaded, EACCES if the caller is not root.
    pub fn open() -> Result<Self, BoxError> {
        let path = format!("{DIRECTORY}/fdbox");
        match rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(node) => Ok(Self {
                handle: ControlHandle::Module(node),
                home: Home::Fdbox,
            }),
            Err(errno) => Err(BoxError::new(Operation::OpenControl, path, errno)),
        }
    }

    /// Connects to the [keeper](crate::keeper) that listens on a socket.
    ///
    /// # Errors
    /// ENOENT, EPIPE when none does, EACCES when the caller is not who it is for.
    pub fn connect(path: &Path) -> Result<Self, BoxError> {
        let target = || format!("the keeper at {}", path.display());
        let error = |errno| BoxError::new(Operation::Connect, target(), errno);
        let socket = client::connect_to(path).map_err(error)?;
        Self::of_keeper(socket).map_err(|inner| error(inner.errno()))
    }

    /// By a connection to a keeper.
    pub(crate) fn of_keeper(socket: OwnedFd) -> Result<Self, BoxError> {
        let error = |errno| BoxError::new(Operation::Connect, "the keeper", errno);
        let (home, _) = client::info(socket.as_fd()).map_err(error)?;
        Ok(Self {
            home: Home::of_wire(home).ok_or_else(|| error(Errno::PROTO))?,
            handle: ControlHandle::Keeper(socket),
        })
    }

    /// The home of its boxes.
    #[must_use]
    pub fn home(&self) -> Home {
        self.home
    }

    /// Creates a box and opens it. If it cannot be opened, it is deleted again.
    ///
    /// # Errors
    /// EEXIST if the name is taken.
    pub fn create(&self, name: &BoxName) -> Result<OpenBox, BoxError> {
        let error = |errno| box_error(Operation::Create, name, errno);
        self.handle.create_box(name).map_err(error)?;
        match self.node(name) {
            Ok(handle) => Ok(OpenBox::new(handle, name.clone())),
            Err(error) => {
                // Report the failed open rather than this; the box is empty.
                let _ = self.delete(name);
                Err(error)
            }
        }
    }

    /// Deletes a box and drops the descriptors still in it.
    ///
    /// # Errors
    /// ENOENT if there is no such box, EBUSY if it is sealed.
    pub fn delete(&self, name: &BoxName) -> Result<(), BoxError> {
        let deleted = self.handle.delete_box(name);
        deleted.map_err(|errno| box_error(Operation::Delete, name, errno))
    }

    /// In a lifeboat: creates a box that the host lends, under the same name. It counts as sealed until it is
    /// taken with [`SealedBox::unseal`].
    ///
    /// # Errors
    /// ENXIO if this kernel has no host, ENOENT if the host lends no such box, EAGAIN if what it hands over is
    /// changing, EEXIST if the name is taken.
    pub fn borrow(&self, name: &BoxName) -> Result<(), BoxError> {
        let borrowed = self.handle.borrow_box(name);
        borrowed.map_err(|errno| box_error(Operation::Borrow, name, errno))
    }

    /// Acts on the lease of a box, or looks at it.
    ///
    /// # Errors
    /// ENXIO if there is no boat, ENOENT if there is no such box, EBUSY if the boat has it.
    pub fn lend(&self, name: &BoxName, act: LendAct) -> Result<Lending, BoxError> {
        let lent = self.node(name)?.lend(act.number());
        let lent = lent.map_err(|errno| box_error(Operation::Lend, name, errno))?;
        Lending::of(&lent).ok_or_else(|| box_error(Operation::Lend, name, Errno::PROTO))
    }

    /// Opens a box anew.
    pub(crate) fn node(&self, name: &BoxName) -> Result<BoxHandle, BoxError> {
        let opened = self.handle.open_box(name);
        opened.map_err(|errno| box_error(Operation::OpenBox, name, errno))
    }

    pub(crate) fn give(&self, name: &BoxName, owner: Owner) -> Result<(), BoxError> {
        let given = self.handle.give(name, owner);
        given.map_err(|errno| box_error(Operation::Give, name, errno))
    }

    pub(crate) fn owner(&self, name: &BoxName) -> Result<Owner, BoxError> {
        let owner = self.handle.owner(name);
        owner.map_err(|errno| box_error(Operation::OpenBox, name, errno))
    }

    /// Lists every box.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN.
    pub fn boxes(&self) -> Result<Vec<BoxInfo>, BoxError> {
        let error = |errno| BoxError::new(Operation::List, "boxes", errno);
        let mut boxes = Vec::new();
        let mut cursor = 0;
        while let Some(next) = self.handle.next_box(cursor).map_err(error)? {
            let name = BoxName::from_kernel(&next.name).map_err(|_| BoxError::bad_name("boxes"))?;
            let sealed = next.state == abi::FDBOX_STATE_SEALED;
            boxes.push(BoxInfo {
                name,
                sealed,
                fds: next.fds,
            });
            cursor = advance(cursor, next.cursor).ok_or_else(|| error(Errno::PROTO))?;
        }
        Ok(boxes)
    }

    /// Queries what this kernel and module can do.
    ///
    /// # Errors
    /// ENOTTY if the module is older than the command.
    pub fn info(&self) -> Result<Info, BoxError> {
        let info = self.handle.info();
        let info =
            info.map_err(|errno| BoxError::new(Operation::Info, self.home.keeper(), errno))?;
        Ok(Info {
            uapi_version: info.uapi_version,
            handover_version: info.handover_version,
            features: Features::from_bits(info.features),
            boxes: info.boxes,
            handover_bytes: info.handover_bytes,
            handover_extents: info.handover_extents,
            handover_pages: info.handover_pages,
            home: self.home,
        })
    }

    /// Opens a box in its current state.
    ///
    /// # Errors
    /// ENOENT if there is no such box.
    pub fn open_box(&self, name: &BoxName) -> Result<AnyBox, BoxError> {
        let info = self.boxes()?.into_iter().find(|info| info.name == *name);
        match info {
            None => Err(box_error(Operation::OpenBox, name, Errno::NOENT)),
            Some(info) => {
                let handle = self.node(name)?;
                Ok(match info.sealed {
                    true => AnyBox::Sealed(SealedBox::new(handle, info.name)),
                    false => AnyBox::Open(OpenBox::new(handle, info.name)),
                })
            }
        }
    }

    /// Whether its boxes are still kept.
    ///
    /// # Errors
    /// EPIPE the keeper is gone, and with it what the boxes had; ETIMEDOUT it does not answer within
    /// a second.
    pub fn check(&self) -> Result<(), BoxError> {
        let checked = self.handle.check();
        checked.map_err(|errno| BoxError::new(Operation::Info, self.home.keeper(), errno))
    }

    /// Makes sure that the next kernel will find every sealed box. Boxes that a keeper retrieved from LUO in this kernel
    /// have to be sealed again for that.
    ///
    /// # Errors
    /// What SEAL says; EPIPE the keeper is gone, and with it what the boxes had.
    pub fn make_ready(&self) -> Result<(), BoxError> {
        let ready = self.handle.make_ready();
        ready.map_err(|errno| BoxError::new(Operation::Seal, "all boxes", errno))
    }

    /// Claims a box for this process, for as long as the claim exists. Updates and resumes do this,
    /// so that a search for waiting guests skips theirs.
    ///
    /// # Errors
    /// ENOENT if there is no such box, EAGAIN if another process is working on it.
    pub fn claim(&self, name: &BoxName, hold: Hold) -> Result<BoxClaim, BoxError> {
        let node = self.handle.open_box(name);
        let node = node.map_err(|errno| box_error(Operation::Claim, name, errno))?;
        BoxClaim::of(node, name, hold)
    }
}

fn box_error(operation: Operation, name: &BoxName, errno: Errno) -> BoxError {
    BoxError::new(operation, format!("box {name}"), errno)
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}
