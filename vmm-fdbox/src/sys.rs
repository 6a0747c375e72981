//! The system calls that no safe wrapper exists for. The only `unsafe` here.

#![allow(
    unsafe_code,
    reason = "raw ioctls, kexec_file_load, mmap and the cycle counter"
)]

use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use rustix::mm::{MapFlags, ProtFlags};

use crate::abi;

/// A struct that an FDBox ioctl takes.
///
/// # Safety
/// The kernel reads and writes at most `size_of::<Self>()` bytes behind the
/// pointer it gets with `OPCODE`, and any bytes it writes are a valid `Self`.
unsafe trait Argument {
    const OPCODE: Opcode;
}

macro_rules! argument {
    ($type:ty, $opcode:expr) => {
        // SAFETY: the header defines this struct, of integers and byte arrays
        // only, as the argument of this command; tests/header.rs compares size
        // and offsets. A growable struct names its own size in `size`, which
        // the wrappers below set.
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

struct WithArgument<'a, T>(&'a mut T);

// SAFETY: `as_ptr` points to a `T` borrowed exclusively for the whole call, of
// which `Argument` promises that the kernel stays inside; `IS_MUTATING` is true.
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

// SAFETY: the pointer is null and only SEAL and UNSEAL, which ignore it, are
// built below, so nothing in user space is written.
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
    // SAFETY: `WithArgument` holds a live `T` for the call; on a file that is
    // not FDBox's, type '.' numbers 0 to 11 are ENOTTY or another driver's,
    // which is why callers open only nodes under /dev/fdbox.
    unsafe { rustix::ioctl::ioctl(fd, WithArgument(argument)) }
}

fn call_bare(fd: BorrowedFd<'_>, opcode: Opcode) -> Result<(), Errno> {
    // SAFETY: the command takes no pointer (see `WithoutArgument`).
    unsafe { rustix::ioctl::ioctl(fd, WithoutArgument(opcode)) }
}

fn size_of_u32<T>() -> u32 {
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

/// Moves `fd` into the box; on failure the descriptor comes back, still open.
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
            // The kernel closed it: closing the number again could hit a
            // descriptor that another thread was given since.
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
    // SAFETY: GET_FD returned success, so `number` is a descriptor which the
    // kernel installed for this call and which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
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

/// The first box at `cursor` or after it; `None` when there is none.
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

/// The first descriptor at `cursor` or after it; `None` when there is none.
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

/// Why the last seal of this box failed; `None` when it did not.
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

/// The first lost descriptor at `cursor` or after it; `None` when there is none.
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

/// `KEXEC_FILE_UNLOAD` of `<linux/kexec.h>`.
const KEXEC_FILE_UNLOAD: libc::c_ulong = 1;
/// `KEXEC_FILE_NO_INITRAMFS` of `<linux/kexec.h>`.
const KEXEC_FILE_NO_INITRAMFS: libc::c_ulong = 4;

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

pub(crate) fn kexec_file_load(
    kernel: BorrowedFd<'_>,
    initramfs: Option<BorrowedFd<'_>>,
    cmdline: &CString,
) -> Result<(), Errno> {
    let flags = if initramfs.is_some() {
        0
    } else {
        KEXEC_FILE_NO_INITRAMFS
    };
    let cmdline = cmdline.as_bytes_with_nul();
    // SAFETY: kexec_file_load(kernel_fd, initrd_fd, cmdline_len, cmdline, flags)
    // takes integers and one pointer, which it only reads, to `cmdline_len`
    // bytes that end in a NUL and live until the call returns.
    let status = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            libc::c_long::from(kernel.as_raw_fd()),
            libc::c_long::from(initramfs.map_or(-1, |fd| fd.as_raw_fd())),
            cmdline.len() as libc::c_ulong,
            cmdline.as_ptr(),
            flags,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

pub(crate) fn kexec_file_unload() -> Result<(), Errno> {
    // SAFETY: with KEXEC_FILE_UNLOAD the kernel ignores the descriptors and
    // reads nothing behind the null pointer, whose length is 0.
    let status = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            -1 as libc::c_long,
            -1 as libc::c_long,
            0 as libc::c_ulong,
            std::ptr::null::<libc::c_char>(),
            KEXEC_FILE_UNLOAD,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// The cycle counter: TSC on x86-64, CNTVCT on arm64.
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC exists on every x86-64 CPU; Linux leaves it enabled in user
    // mode unless the process asked for PR_SET_TSC, and touches no memory.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: Linux lets user mode read CNTVCT_EL0; no memory is touched.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
        return ticks;
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    compile_error!("no cycle counter that survives a kexec is known for this architecture");
}

/// A file mapped shared and writable, from its start.
///
/// # Invariants
/// `start` is the address of a mapping of `len` bytes, `len > 0`, which lives
/// until this value is dropped and to which no reference is ever made.
#[derive(Debug)]
pub(crate) struct SharedMapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `&self`
// methods do not write.
unsafe impl Send for SharedMapping {}

impl SharedMapping {
    /// Maps `len` bytes of `fd` and makes every page present.
    pub(crate) fn new(fd: impl AsFd, len: usize) -> Result<Self, Errno> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: no address is asked for, so no existing mapping is touched.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                0,
            )
        }?;
        // INVARIANT: mmap refuses len 0 and returned a mapping of `len` bytes.
        NonNull::new(start.cast())
            .map(|start| Self { start, len })
            .ok_or(Errno::FAULT)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies `bytes` to `offset`; `false` when they do not fit.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let fits = offset
            .checked_add(bytes.len())
            .is_some_and(|end| end <= self.len);
        if fits {
            // SAFETY: offset < len, or == len with no bytes to copy, so by the
            // type's invariant the result is in the mapping or just behind it.
            let target = unsafe { self.start.as_ptr().add(offset) };
            // Another process that has the file mapped could at worst see or
            // make a torn copy, which the checksums of what is stored detect.
            //
            // SAFETY: offset + bytes.len() <= len, so by the type's invariant
            // the target lies in the mapping; it cannot overlap `bytes`, since
            // no reference to the mapping exists.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        }
        // What is written later must not become visible before this.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        fits
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: by the invariant this is a whole mapping, which nothing refers
        // to once `self` is gone. Unmapping can only fail for bad arguments.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
