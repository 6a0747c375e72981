//! Boxes as used by the scenarios: the ioctls with correct arguments.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use rustix::io::Errno;

use crate::uapi::{
    self, Borrow, Info, Lend, Named, NextBox, NextFd, NextLost, PutFd, Salvage, SealError,
};

pub(crate) const CONTROL: &str = "/dev/fdbox/fdbox";

/// The control node.
pub(crate) fn control() -> Result<File> {
    open(CONTROL).context("Open the control node: is the module loaded?")
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// An open node of a box.
#[derive(Debug)]
pub(crate) struct FdBox {
    pub(crate) node: File,
    pub(crate) name: String,
}

impl FdBox {
    pub(crate) fn create(name: &str) -> Result<Self> {
        Self::try_create(name).with_context(|| format!("Create the box {name}"))?;
        Self::open(name)
    }

    pub(crate) fn try_create(name: &str) -> Result<(), Errno> {
        let control = control().map_err(|_| Errno::NODEV)?;
        uapi::call(control, uapi::CREATE_BOX, &mut Named::new(name)).map(drop)
    }

    pub(crate) fn open(name: &str) -> Result<Self> {
        Self::try_open(name).with_context(|| format!("Open the box {name}"))
    }

    pub(crate) fn try_open(name: &str) -> io::Result<Self> {
        Ok(Self {
            node: open(&node_path(name))?,
            name: name.to_owned(),
        })
    }

    pub(crate) fn delete(&self) -> Result<()> {
        self.try_delete()
            .with_context(|| format!("Delete the box {}", self.name))
    }

    pub(crate) fn try_delete(&self) -> Result<(), Errno> {
        let control = control().map_err(|_| Errno::NODEV)?;
        uapi::call(control, uapi::DELETE_BOX, &mut Named::new(&self.name)).map(drop)
    }

    /// Moves `fd` into the box, or returns it with the error.
    pub(crate) fn try_put(&self, fd: OwnedFd, name: &str) -> Result<(), (Errno, OwnedFd)> {
        match self.try_put_number(fd.as_raw_fd(), name) {
            Ok(()) => {
                // The number is free again: dropping it could close another file.
                let _ = fd.into_raw_fd();
                Ok(())
            }
            Err(error) => Err((error, fd)),
        }
    }

    /// PUT_FD of whatever file has this number.
    pub(crate) fn try_put_number(&self, fd: RawFd, name: &str) -> Result<(), Errno> {
        let mut argument = PutFd {
            flags: 0,
            fd,
            pad: 0,
            name: uapi::NameArray::new(name),
        };
        uapi::call(&self.node, uapi::PUT_FD, &mut argument).map(drop)
    }

    pub(crate) fn put(&self, fd: impl Into<OwnedFd>, name: &str) -> Result<()> {
        self.try_put(fd.into(), name)
            .map_err(|(error, _)| error)
            .with_context(|| format!("Put {name} into the box {}", self.name))
    }

    pub(crate) fn try_get(&self, name: &str) -> Result<OwnedFd, Errno> {
        self.try_get_with(name, 0)
    }

    fn try_get_with(&self, name: &str, flags: u64) -> Result<OwnedFd, Errno> {
        let mut argument = Named {
            flags,
            ..Named::new(name)
        };
        let number = uapi::call(&self.node, uapi::GET_FD, &mut argument)?;
        // SAFETY: the kernel has just created this descriptor for the caller.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    pub(crate) fn get(&self, name: &str) -> Result<OwnedFd> {
        self.try_get(name)
            .with_context(|| format!("Get {name} out of the box {}", self.name))
    }

    /// Gets a descriptor that the box keeps as well.
    pub(crate) fn get_and_keep(&self, name: &str) -> Result<OwnedFd> {
        self.try_get_and_keep(name)
            .with_context(|| format!("Get {name} from the box {}", self.name))
    }

    /// A box of the host's, in the boat.
    pub(crate) fn try_borrow(name: &str) -> Result<(), Errno> {
        let control = control().map_err(|_| Errno::NODEV)?;
        let mut borrow = Borrow {
            size: size_of::<Borrow>() as u32,
            flags: 0,
            name: uapi::NameArray::new(name),
        };
        uapi::call(control, uapi::BORROW, &mut borrow).map(drop)
    }

    /// Returns the lease afterwards.
    pub(crate) fn try_lend(&self, act: u32) -> Result<Lend, Errno> {
        let mut lend = Lend {
            size: size_of::<Lend>() as u32,
            act,
            ..Lend::default()
        };
        uapi::call(&self.node, uapi::LEND, &mut lend)?;
        Ok(lend)
    }

    pub(crate) fn try_get_and_keep(&self, name: &str) -> Result<OwnedFd, Errno> {
        self.try_get_with(name, uapi::GET_KEEP)
    }

    pub(crate) fn try_seal(&self) -> Result<(), Errno> {
        uapi::call_plain(&self.node, uapi::SEAL, 0).map(drop)
    }

    pub(crate) fn seal(&self) -> Result<()> {
        self.try_seal().with_context(|| match self.seal_error() {
            Ok(why) => format!(
                "Seal the box {}: {}: {}",
                self.name,
                why.name.text(),
                uapi::text(&why.message)
            ),
            Err(_) => format!("Seal the box {}", self.name),
        })
    }

    pub(crate) fn try_unseal(&self) -> Result<(), Errno> {
        uapi::call_plain(&self.node, uapi::UNSEAL, 0).map(drop)
    }

    pub(crate) fn unseal(&self) -> Result<()> {
        self.try_unseal()
            .with_context(|| format!("Unseal the box {}", self.name))
    }

    /// Returns how many descriptors are lost.
    pub(crate) fn try_salvage(&self) -> Result<u64, Errno> {
        let mut salvage = salvage();
        uapi::call(&self.node, uapi::SALVAGE, &mut salvage)?;
        Ok(salvage.lost)
    }

    /// What the last UNSEAL or SALVAGE found to be lost: names and reasons.
    pub(crate) fn lost(&self) -> Result<Vec<(String, u32)>, Errno> {
        let lost = self.whole_lost()?;
        Ok(lost
            .iter()
            .map(|lost| (lost.name.text(), lost.reason))
            .collect())
    }

    pub(crate) fn whole_lost(&self) -> Result<Vec<NextLost>, Errno> {
        let mut all = Vec::new();
        let mut cursor = 0;
        loop {
            let mut next = next_lost(cursor);
            match uapi::call(&self.node, uapi::NEXT_LOST, &mut next) {
                Ok(_) => {
                    cursor = next.cursor;
                    all.push(next);
                }
                Err(Errno::NOENT) => return Ok(all),
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn seal_error(&self) -> Result<SealError, Errno> {
        let mut out = no_seal_error();
        uapi::call(&self.node, uapi::SEAL_ERROR, &mut out)?;
        Ok(out)
    }

    /// The contents of the box.
    pub(crate) fn entries(&self) -> Result<Vec<NextFd>, Errno> {
        let mut entries = Vec::new();
        let mut cursor = 0;
        loop {
            let mut next = next_fd(cursor);
            match uapi::call(&self.node, uapi::NEXT_FD, &mut next) {
                Ok(_) => {
                    cursor = next.cursor;
                    entries.push(next);
                }
                Err(Errno::NOENT) => return Ok(entries),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for FdBox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }
}

pub(crate) fn node_path(name: &str) -> String {
    format!("/dev/fdbox/{name}")
}

pub(crate) fn next_fd(cursor: u64) -> NextFd {
    NextFd {
        size: size_of::<NextFd>() as u32,
        flags: 0,
        cursor,
        state: 0,
        pad: 0,
        bytes: 0,
        name: uapi::NameArray::new(""),
        compatible: [0; 48],
    }
}

pub(crate) fn next_box(cursor: u64) -> NextBox {
    NextBox {
        size: size_of::<NextBox>() as u32,
        flags: 0,
        cursor,
        state: 0,
        fds: 0,
        name: uapi::NameArray::new(""),
    }
}

pub(crate) fn no_seal_error() -> SealError {
    SealError {
        size: size_of::<SealError>() as u32,
        flags: 0,
        error: 0,
        reason: 0,
        name: uapi::NameArray::new(""),
        message: [0; 256],
    }
}

pub(crate) fn next_lost(cursor: u64) -> NextLost {
    NextLost {
        size: size_of::<NextLost>() as u32,
        flags: 0,
        cursor,
        error: 0,
        reason: 0,
        name: uapi::NameArray::new(""),
        compatible: [0; 48],
        message: [0; 256],
    }
}

pub(crate) fn salvage() -> Salvage {
    Salvage {
        size: size_of::<Salvage>() as u32,
        flags: 0,
        lost: u64::MAX,
    }
}

/// All boxes of the host.
pub(crate) fn boxes() -> Result<Vec<NextBox>> {
    let control = control()?;
    let mut boxes = Vec::new();
    let mut cursor = 0;
    loop {
        let mut next = next_box(cursor);
        match uapi::call(&control, uapi::NEXT_BOX, &mut next) {
            Ok(_) => {
                cursor = next.cursor;
                boxes.push(next);
            }
            Err(Errno::NOENT) => return Ok(boxes),
            Err(error) => return Err(error).context("List the boxes"),
        }
    }
}

/// The box with this name in the list.
pub(crate) fn listed(name: &str) -> Result<Option<NextBox>> {
    Ok(boxes()?.into_iter().find(|found| found.name.text() == name))
}

pub(crate) fn info() -> Result<Info> {
    let mut info = Info {
        size: size_of::<Info>() as u32,
        ..Info::default()
    };
    uapi::call(control()?, uapi::INFO, &mut info).context("Ask the module what it can do")?;
    Ok(info)
}
