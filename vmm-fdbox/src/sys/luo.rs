//! The ioctls of `/dev/liveupdate` and of its sessions: include/uapi/linux/liveupdate.h of Linux 7.3.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

/// Bytes in a session's name, its terminating NUL included.
pub(crate) const SESSION_NAME_LEN: usize = 64;

const TYPE: u8 = 0xba;
const CREATE_SESSION: Opcode = opcode::none(TYPE, 0x00);
const RETRIEVE_SESSION: Opcode = opcode::none(TYPE, 0x01);
const PRESERVE_FD: Opcode = opcode::none(TYPE, 0x40);
const RETRIEVE_FD: Opcode = opcode::none(TYPE, 0x41);
const FINISH: Opcode = opcode::none(TYPE, 0x42);

/// `struct liveupdate_ioctl_create_session`, and that of `RETRIEVE_SESSION`.
#[repr(C)]
struct Session {
    size: u32,
    fd: i32,
    name: [u8; SESSION_NAME_LEN],
}

/// `struct liveupdate_session_preserve_fd`, and that of `RETRIEVE_FD`.
#[repr(C)]
struct Fd {
    size: u32,
    fd: i32,
    token: u64,
}

/// `struct liveupdate_session_finish`.
#[repr(C)]
struct Finish {
    size: u32,
    reserved: u32,
}

const _: () =
    assert!(size_of::<Session>() == 72 && size_of::<Fd>() == 16 && size_of::<Finish>() == 8);

struct Call<'a, T> {
    opcode: Opcode,
    argument: &'a mut T,
}

// SAFETY: `as_ptr` points to a `T` borrowed exclusively for the whole call. Only the functions below make a `Call`,
// with the struct that the kernel's header defines for the opcode, of integers and bytes, whose first member tells
// the kernel its size.
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn call<T>(fd: BorrowedFd<'_>, opcode: Opcode, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: see `Call`; callers have only `/dev/liveupdate` and sessions of it.
    unsafe { rustix::ioctl::ioctl(fd, Call { opcode, argument }) }
}

fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

fn session(device: BorrowedFd<'_>, opcode: Opcode, name: &str) -> Result<OwnedFd, Errno> {
    let mut argument = Session {
        size: size_of_u32::<Session>(),
        fd: -1,
        name: [0; SESSION_NAME_LEN],
    };
    if name.len() >= SESSION_NAME_LEN {
        return Err(Errno::NAMETOOLONG);
    }
    argument.name[..name.len()].copy_from_slice(name.as_bytes());
    call(device, opcode, &mut argument)?;
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(argument.fd) })
}

/// A session for the next kernel.
pub(crate) fn luo_create(device: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    session(device, CREATE_SESSION, name)
}

/// A session of the last kernel.
pub(crate) fn luo_retrieve(device: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    session(device, RETRIEVE_SESSION, name)
}

/// Has a session hold a file.
pub(crate) fn luo_preserve(
    session: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    token: u64,
) -> Result<(), Errno> {
    let mut argument = Fd {
        size: size_of_u32::<Fd>(),
        fd: fd.as_raw_fd(),
        token,
    };
    call(session, PRESERVE_FD, &mut argument)
}

/// A file of a session of the last kernel.
pub(crate) fn luo_take(session: BorrowedFd<'_>, token: u64) -> Result<OwnedFd, Errno> {
    let mut argument = Fd {
        size: size_of_u32::<Fd>(),
        fd: -1,
        token,
    };
    call(session, RETRIEVE_FD, &mut argument)?;
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(argument.fd) })
}

/// Gives up what was not taken out of a session of the last kernel.
pub(crate) fn luo_finish(session: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut argument = Finish {
        size: size_of_u32::<Finish>(),
        reserved: 0,
    };
    call(session, FINISH, &mut argument)
}
