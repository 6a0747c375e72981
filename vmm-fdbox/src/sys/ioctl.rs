//! The ioctls of the control node and of boxes.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

use crate::abi;

/// The argument struct of an FDBox ioctl.
///
/// # Safety
/// The kernel reads and writes at most `size_of::<Self>()` bytes at the pointer it gets with
/// `OPCODE`, and any bytes it writes are a valid `Self`.
pub(super) unsafe trait Argument {
    const OPCODE: Opcode;
}

macro_rules! argument {
    ($type:ty, $opcode:expr) => {
        // SAFETY: the header defines this struct, of integers and byte arrays only, as the argument
        // of this command; tests/header.rs compares size and offsets. A growable struct has its own
        // size in `size`, which the wrappers below set.
        unsafe impl Argument for $type {
            const OPCODE: Opcode = $opcode;
        }
    };
}

argument!(abi::CreateBox, abi::FDBOX_CREATE_BOX);
argument!(abi::DeleteBox, abi::FDBOX_DELETE_BOX);
argument!(abi::PutFd, abi::FDBOX_PUT_FD);
argument!(abi::GetFd, abi::FDBOX_GET_FD);
argument!(abi::Info, abi::FDBOX_INFO);
argument!(abi::NextBox, abi::FDBOX_NEXT_BOX);
argument!(abi::NextFd, abi::FDBOX_NEXT_FD);
argument!(abi::SealError, abi::FDBOX_SEAL_ERROR);
argument!(abi::NextLost, abi::FDBOX_NEXT_LOST);
argument!(abi::Salvage, abi::FDBOX_SALVAGE);
argument!(abi::Borrow, abi::FDBOX_BORROW);
argument!(abi::Lend, abi::FDBOX_LEND);

pub(super) struct WithArgument<'a, T>(pub(super) &'a mut T);

// SAFETY: `as_ptr` points to a `T` borrowed exclusively for the whole call, and by `Argument` the
// kernel stays inside it; `IS_MUTATING` is true.
unsafe impl<T: Argument> Ioctl for WithArgument<'_, T> {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        T::OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

struct WithoutArgument(Opcode);

// SAFETY: the pointer is null, and only SEAL and UNSEAL, which ignore it, are built below, so
// nothing in user space is written.
unsafe impl Ioctl for WithoutArgument {
    type Output = ();
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn call<T: Argument>(fd: BorrowedFd<'_>, argument: &mut T) -> Result<IoctlOutput, Errno> {
    // SAFETY: `WithArgument` holds a live `T` for the call. On a file that does not belong to
    // FDBox, type '.' numbers 0 to 13 are ENOTTY or another driver's, which is why callers open
    // only nodes under /dev/fdbox, and check descriptors from elsewhere with `is_box`.
    unsafe { rustix::ioctl::ioctl(fd, WithArgument(argument)) }
}

fn call_bare(fd: BorrowedFd<'_>, opcode: Opcode) -> Result<(), Errno> {
    // SAFETY: the command takes no pointer (see `WithoutArgument`).
    unsafe { rustix::ioctl::ioctl(fd, WithoutArgument(opcode)) }
}

pub(super) fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

pub(crate) fn create_box(
    control: BorrowedFd<'_>,
    name: [u8; abi::FDBOX_NAME_LEN],
) -> Result<(), Errno> {
    call(control, &mut abi::CreateBox { flags: 0, name }).map(drop)
}

pub(crate) fn delete_box(
    control: BorrowedFd<'_>,
    name: [u8; abi::FDBOX_NAME_LEN],
) -> Result<(), Errno> {
    call(control, &mut abi::DeleteBox { flags: 0, name }).map(drop)
}

/// Moves `fd` into the box; on failure the descriptor is returned, still open.
pub(crate) fn put_fd(
    fdbox: BorrowedFd<'_>,
    name: [u8; abi::FDBOX_NAME_LEN],
    fd: OwnedFd,
) -> Result<(), (OwnedFd, Errno)> {
    let raw = fd.as_raw_fd();
    let number = u32::try_from(raw).unwrap_or(u32::MAX);
    match call(
        fdbox,
        &mut abi::PutFd {
            flags: 0,
            fd: number,
            pad: 0,
            name,
        },
    ) {
        Ok(_) => {
            // The kernel closed it: closing the number again could hit a descriptor that another
            // thread has received since.
            let _ = fd.into_raw_fd();
            Ok(())
        }
        Err(errno) => Err((fd, errno)),
    }
}

pub(crate) fn get_fd(
    fdbox: BorrowedFd<'_>,
    name: [u8; abi::FDBOX_NAME_LEN],
    flags: u64,
) -> Result<OwnedFd, Errno> {
    let number = call(fdbox, &mut abi::GetFd { flags, name })?;
    // SAFETY: GET_FD returned success, so `number` is a descriptor that the kernel installed for
    // this call and nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A name that no program gives to a descriptor.
const NOBODYS_NAME: &[u8] = b"\x01is it sealed?";

/// What a descriptor from elsewhere is: `Some(true)` a sealed box, `Some(false)` an open one,
/// `None` not a box.
pub(crate) fn is_box(fd: BorrowedFd<'_>) -> Result<Option<bool>, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device() {
        return Ok(None);
    }
    // Other drivers refuse commands of a foreign type.
    match next_fd(fd, u64::MAX) {
        Ok(None) => {}
        Err(Errno::NODEV) => return Err(Errno::NODEV),
        Ok(Some(_)) | Err(_) => return Ok(None),
    }
    let mut name = [0; abi::FDBOX_NAME_LEN];
    name[..NOBODYS_NAME.len()].copy_from_slice(NOBODYS_NAME);
    match get_fd(fd, name, abi::FDBOX_GET_KEEP) {
        Ok(_) | Err(Errno::NOENT) => Ok(Some(false)),
        Err(Errno::BUSY) => Ok(Some(true)),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn seal(fdbox: BorrowedFd<'_>) -> Result<(), Errno> {
    call_bare(fdbox, abi::FDBOX_SEAL)
}

pub(crate) fn unseal(fdbox: BorrowedFd<'_>) -> Result<(), Errno> {
    call_bare(fdbox, abi::FDBOX_UNSEAL)
}

pub(crate) fn info(control: BorrowedFd<'_>) -> Result<abi::Info, Errno> {
    let mut info = abi::Info {
        size: size_of_u32::<abi::Info>(),
        ..Default::default()
    };
    call(control, &mut info)?;
    Ok(info)
}

/// The first box at or after `cursor`; `None` if there is none.
pub(crate) fn next_box(
    control: BorrowedFd<'_>,
    cursor: u64,
) -> Result<Option<abi::NextBox>, Errno> {
    let mut next = abi::NextBox {
        size: size_of_u32::<abi::NextBox>(),
        flags: 0,
        cursor,
        state: 0,
        fds: 0,
        name: [0; abi::FDBOX_NAME_LEN],
    };
    match call(control, &mut next) {
        Ok(_) => Ok(Some(next)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The first descriptor at or after `cursor`; `None` if there is none.
pub(crate) fn next_fd(fdbox: BorrowedFd<'_>, cursor: u64) -> Result<Option<abi::NextFd>, Errno> {
    let mut next = abi::NextFd {
        size: size_of_u32::<abi::NextFd>(),
        flags: 0,
        cursor,
        state: 0,
        pad: 0,
        bytes: 0,
        name: [0; abi::FDBOX_NAME_LEN],
        compatible: [0; abi::FDBOX_COMPATIBLE_LEN],
    };
    match call(fdbox, &mut next) {
        Ok(_) => Ok(Some(next)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Why the last seal of this box failed; `None` if it did not.
pub(crate) fn seal_error(fdbox: BorrowedFd<'_>) -> Result<Option<abi::SealError>, Errno> {
    let mut report = abi::SealError {
        size: size_of_u32::<abi::SealError>(),
        flags: 0,
        error: 0,
        reason: 0,
        name: [0; abi::FDBOX_NAME_LEN],
        message: [0; abi::FDBOX_MESSAGE_LEN],
    };
    match call(fdbox, &mut report) {
        Ok(_) => Ok(Some(report)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The first lost descriptor at or after `cursor`; `None` if there is none.
pub(crate) fn next_lost(
    fdbox: BorrowedFd<'_>,
    cursor: u64,
) -> Result<Option<abi::NextLost>, Errno> {
    let mut next = abi::NextLost {
        size: size_of_u32::<abi::NextLost>(),
        flags: 0,
        cursor,
        error: 0,
        reason: 0,
        name: [0; abi::FDBOX_NAME_LEN],
        compatible: [0; abi::FDBOX_COMPATIBLE_LEN],
        message: [0; abi::FDBOX_MESSAGE_LEN],
    };
    match call(fdbox, &mut next) {
        Ok(_) => Ok(Some(next)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn salvage(fdbox: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut salvage = abi::Salvage {
        size: size_of_u32::<abi::Salvage>(),
        ..Default::default()
    };
    call(fdbox, &mut salvage).map(drop)
}

/// Creates a box that the host lends, in its boat.
pub(crate) fn borrow_box(
    control: BorrowedFd<'_>,
    name: [u8; abi::FDBOX_NAME_LEN],
) -> Result<(), Errno> {
    let mut borrow = abi::Borrow {
        size: size_of_u32::<abi::Borrow>(),
        flags: 0,
        name,
    };
    call(control, &mut borrow).map(drop)
}

/// Acts on the lease of a box, and returns it.
pub(crate) fn lend(fdbox: BorrowedFd<'_>, act: u32) -> Result<abi::Lend, Errno> {
    let mut lend = abi::Lend {
        size: size_of_u32::<abi::Lend>(),
        act,
        ..Default::default()
    };
    call(fdbox, &mut lend)?;
    Ok(lend)
}
