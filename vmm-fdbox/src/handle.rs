//! Descriptors for boxes: of the module's nodes, or of a keeper's sockets. Both support the same
//! commands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, FlockOperation, Gid, Mode, OFlags, Uid, fchown, flock, fstat};
use rustix::io::Errno;

use crate::abi::{self, FDBOX_NAME_LEN};
use crate::hold::Hold;
use crate::keeper::client;
use crate::name::BoxName;
use crate::owner::Owner;
use crate::sys;

/// The directory of the module's nodes: the control node, and one per box.
pub(crate) const DIRECTORY: &str = "/dev/fdbox";

type Name = [u8; FDBOX_NAME_LEN];

/// A descriptor of one box.
#[derive(Debug)]
pub(crate) enum BoxHandle {
    Module(OwnedFd),
    Keeper(OwnedFd),
}

impl AsFd for BoxHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Module(fd) | Self::Keeper(fd) => fd.as_fd(),
        }
    }
}

impl BoxHandle {
    pub(crate) fn into_fd(self) -> OwnedFd {
        match self {
            Self::Module(fd) | Self::Keeper(fd) => fd,
        }
    }

    /// A descriptor from elsewhere, and whether its box is sealed. EBADF: it is not a descriptor of
    /// a box.
    pub(crate) fn passed(fd: OwnedFd) -> Result<(Self, bool), Errno> {
        let mode = fstat(&fd)?.st_mode;
        if FileType::from_raw_mode(mode) == FileType::Socket {
            let sealed = match crate::keeper::is_packet_socket(&fd) {
                true => client::is_sealed(fd.as_fd())?,
                false => return Err(Errno::BADF),
            };
            return Ok((Self::Keeper(fd), sealed));
        }
        let sealed = sys::is_box(fd.as_fd())?.ok_or(Errno::BADF)?;
        Ok((Self::Module(fd), sealed))
    }

    /// Moves `fd` into the box; on failure the descriptor is returned, still open.
    pub(crate) fn put_fd(&self, name: Name, fd: OwnedFd) -> Result<(), (OwnedFd, Errno)> {
        match self {
            Self::Module(node) => sys::put_fd(node.as_fd(), name, fd),
            Self::Keeper(socket) => client::put_fd(socket.as_fd(), name, fd),
        }
    }

    pub(crate) fn get_fd(&self, name: Name, flags: u64) -> Result<OwnedFd, Errno> {
        match self {
            Self::Module(node) => sys::get_fd(node.as_fd(), name, flags),
            Self::Keeper(socket) => client::get_fd(socket.as_fd(), name, flags),
        }
    }

    /// The first descriptor at `cursor` or after it; `None` when there is none.
    pub(crate) fn next_fd(&self, cursor: u64) -> Result<Option<abi::NextFd>, Errno> {
        match self {
            Self::Module(node) => sys::next_fd(node.as_fd(), cursor),
            Self::Keeper(socket) => client::next_fd(socket.as_fd(), cursor),
        }
    }

    /// The first lost descriptor at `cursor` or after it; `None` when there is none.
    pub(crate) fn next_lost(&self, cursor: u64) -> Result<Option<abi::NextLost>, Errno> {
        match self {
            Self::Module(node) => sys::next_lost(node.as_fd(), cursor),
            Self::Keeper(socket) => client::next_lost(socket.as_fd(), cursor),
        }
    }

    /// Acts on the lease of the box; only the module can lend.
    pub(crate) fn lend(&self, act: u32) -> Result<abi::Lend, Errno> {
        match self {
            Self::Module(node) => sys::lend(node.as_fd(), act),
            Self::Keeper(_) => Err(Errno::NXIO),
        }
    }

    /// On failure also returns the reason, if there is a report.
    pub(crate) fn seal(&self) -> Result<(), (Errno, Option<Box<abi::SealError>>)> {
        match self {
            Self::Module(node) => sys::seal(node.as_fd()).map_err(|errno| {
                // A seal that was refused immediately leaves the report of the previous one.
                let report = sys::seal_error(node.as_fd()).ok().flatten();
                let report = report.filter(|report| report.error == errno.raw_os_error());
                (errno, report.map(Box::new))
            }),
            Self::Keeper(socket) => client::seal(socket.as_fd()),
        }
    }

    pub(crate) fn unseal(&self) -> Result<(), Errno> {
        match self {
            Self::Module(node) => sys::unseal(node.as_fd()),
            Self::Keeper(socket) => client::unseal(socket.as_fd()),
        }
    }

    pub(crate) fn salvage(&self) -> Result<(), Errno> {
        match self {
            Self::Module(node) => sys::salvage(node.as_fd()),
            Self::Keeper(socket) => client::salvage(socket.as_fd()),
        }
    }

    /// Claims the box; the claim lasts until all duplicates of this descriptor are closed.
    pub(crate) fn claim(&self, hold: Hold) -> Result<(), Errno> {
        match self {
            Self::Module(node) => flock(
                node,
                match hold {
                    Hold::Shared => FlockOperation::NonBlockingLockShared,
                    Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
                },
            ),
            Self::Keeper(socket) => client::claim(socket.as_fd(), hold),
        }
    }
}

/// A descriptor for all boxes.
#[derive(Debug)]
pub(crate) enum ControlHandle {
    Module(OwnedFd),
    Keeper(OwnedFd),
}

impl AsFd for ControlHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Module(fd) | Self::Keeper(fd) => fd.as_fd(),
        }
    }
}

/// The path of a box's node.
fn path_of(name: &BoxName) -> Vec<u8> {
    [DIRECTORY.as_bytes(), b"/", name.as_bytes()].concat()
}

impl ControlHandle {
    pub(crate) fn create_box(&self, name: &BoxName) -> Result<(), Errno> {
        match self {
            Self::Module(node) => sys::create_box(node.as_fd(), name.to_kernel()),
            Self::Keeper(socket) => client::create_box(socket.as_fd(), name.to_kernel()),
        }
    }

    /// Creates a box that the host lends.
    pub(crate) fn borrow_box(&self, name: &BoxName) -> Result<(), Errno> {
        match self {
            Self::Module(node) => sys::borrow_box(node.as_fd(), name.to_kernel()),
            Self::Keeper(_) => Err(Errno::NXIO),
        }
    }

    pub(crate) fn delete_box(&self, name: &BoxName) -> Result<(), Errno> {
        match self {
            Self::Module(node) => sys::delete_box(node.as_fd(), name.to_kernel()),
            Self::Keeper(socket) => client::delete_box(socket.as_fd(), name.to_kernel()),
        }
    }

    /// Opens a box and returns a new descriptor.
    pub(crate) fn open_box(&self, name: &BoxName) -> Result<BoxHandle, Errno> {
        match self {
            Self::Module(_) => {
                let flags = OFlags::RDWR | OFlags::CLOEXEC;
                let node = rustix::fs::open(path_of(name), flags, Mode::empty())?;
                Ok(BoxHandle::Module(node))
            }
            Self::Keeper(socket) => {
                let socket = client::open_box(socket.as_fd(), name.to_kernel())?;
                Ok(BoxHandle::Keeper(socket))
            }
        }
    }

    /// The first box at `cursor` or after it; `None` when there is none.
    pub(crate) fn next_box(&self, cursor: u64) -> Result<Option<abi::NextBox>, Errno> {
        match self {
            Self::Module(node) => sys::next_box(node.as_fd(), cursor),
            Self::Keeper(socket) => client::next_box(socket.as_fd(), cursor),
        }
    }

    pub(crate) fn info(&self) -> Result<abi::Info, Errno> {
        match self {
            Self::Module(node) => sys::info(node.as_fd()),
            Self::Keeper(socket) => Ok(client::info(socket.as_fd())?.1),
        }
    }

    /// Whether the boxes are still kept.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        match self {
            Self::Module(_) => Ok(()),
            Self::Keeper(socket) => client::check(socket.as_fd()),
        }
    }

    /// Makes sure that the next kernel will find every sealed box; for the module this is always
    /// the case.
    pub(crate) fn make_ready(&self) -> Result<(), Errno> {
        match self {
            Self::Module(_) => Ok(()),
            Self::Keeper(socket) => client::ready(socket.as_fd()),
        }
    }

    /// Changes the owner of a box.
    pub(crate) fn give(&self, name: &BoxName, owner: Owner) -> Result<(), Errno> {
        match self {
            Self::Module(_) => {
                let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
                fchown(self.open_box(name)?, Some(uid), Some(gid))
            }
            Self::Keeper(socket) => client::give(socket.as_fd(), name.to_kernel(), owner),
        }
    }

    /// The owner of a box.
    pub(crate) fn owner(&self, name: &BoxName) -> Result<Owner, Errno> {
        match self {
            Self::Module(_) => {
                let stat = rustix::fs::lstat(path_of(name))?;
                let (uid, gid) = (stat.st_uid, stat.st_gid);
                Ok(Owner { uid, gid })
            }
            Self::Keeper(socket) => client::owner(socket.as_fd(), name.to_kernel()),
        }
    }
}
