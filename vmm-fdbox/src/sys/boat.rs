//! The ioctls of `/dev/fdbox-boat`.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::Opcode;

use super::ioctl::{Argument, WithArgument, size_of_u32};
use crate::abi;

macro_rules! argument {
    ($type:ty, $opcode:expr) => {
        // SAFETY: the header defines this struct, of integers and byte arrays only, as the argument
        // of this command; tests/header.rs compares size and offsets. `size` is set below.
        unsafe impl Argument for $type {
            const OPCODE: Opcode = $opcode;
        }
    };
}

argument!(abi::BoatLoad, abi::FDBOX_BOAT_LOAD);
argument!(abi::BoatStart, abi::FDBOX_BOAT_START);
argument!(abi::BoatStop, abi::FDBOX_BOAT_STOP);
argument!(abi::BoatStatus, abi::FDBOX_BOAT_STATUS);
argument!(abi::BoatCheck, abi::FDBOX_BOAT_CHECK);
argument!(abi::BoatMessage, abi::FDBOX_BOAT_MESSAGE);
argument!(abi::BoatRestart, abi::FDBOX_BOAT_RESTART);
argument!(abi::BoatLend, abi::FDBOX_BOAT_LEND);

fn call<T: Argument>(node: BorrowedFd<'_>, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: `WithArgument` holds a live `T` for the call, and callers pass the node of the boat.
    unsafe { rustix::ioctl::ioctl(node, WithArgument(argument)) }.map(drop)
}

/// What a boat is loaded with.
pub(crate) struct Load<'a> {
    pub(crate) kernel: BorrowedFd<'a>,
    pub(crate) initramfs: Option<BorrowedFd<'a>>,
    pub(crate) cmdline: &'a str,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: &'a [u32],
    /// How many of them it starts with.
    pub(crate) first_cpus: u32,
    /// Whether the kernel that is loaded is taken along.
    pub(crate) rescue: bool,
}

pub(crate) fn load(node: BorrowedFd<'_>, load: &Load<'_>) -> Result<(), Errno> {
    let len = |len: usize| u32::try_from(len).map_err(|_| Errno::INVAL);
    let mut argument = abi::BoatLoad {
        size: size_of_u32::<abi::BoatLoad>(),
        flags: match load.rescue {
            true => abi::FDBOX_BOAT_LOAD_RESCUE,
            false => 0,
        },
        kernel_fd: load.kernel.as_raw_fd(),
        initramfs_fd: load.initramfs.map_or(-1, |fd| fd.as_raw_fd()),
        // The kernel only reads both.
        cmdline: load.cmdline.as_ptr() as u64,
        cmdline_len: len(load.cmdline.len())?,
        memory_mib: load.memory_mib,
        cpus: load.cpus.as_ptr() as u64,
        nr_cpus: len(load.cpus.len())?,
        nr_start: load.first_cpus,
    };
    call(node, &mut argument)
}

/// With the default for the time of silence after which it is lost.
pub(crate) fn start(node: BorrowedFd<'_>, start_ms: u32) -> Result<(), Errno> {
    let mut start = abi::BoatStart {
        size: size_of_u32::<abi::BoatStart>(),
        start_ms,
        ..Default::default()
    };
    call(node, &mut start)
}

pub(crate) fn lend(node: BorrowedFd<'_>, nr_cpus: u32, limit_ms: u32) -> Result<(), Errno> {
    let mut lend = abi::BoatLend {
        size: size_of_u32::<abi::BoatLend>(),
        nr_cpus,
        limit_ms,
        ..Default::default()
    };
    call(node, &mut lend)
}

pub(crate) fn stop(node: BorrowedFd<'_>, limit_ms: u32) -> Result<(), Errno> {
    let mut stop = abi::BoatStop {
        size: size_of_u32::<abi::BoatStop>(),
        limit_ms,
        ..Default::default()
    };
    call(node, &mut stop)
}

pub(crate) fn status(node: BorrowedFd<'_>) -> Result<abi::BoatStatus, Errno> {
    let mut status = abi::BoatStatus {
        size: size_of_u32::<abi::BoatStatus>(),
        ..Default::default()
    };
    call(node, &mut status)?;
    Ok(status)
}

pub(crate) fn check(node: BorrowedFd<'_>, cmdline: &str) -> Result<(), Errno> {
    let mut check = abi::BoatCheck {
        size: size_of_u32::<abi::BoatCheck>(),
        // The kernel only reads it.
        cmdline: cmdline.as_ptr() as u64,
        cmdline_len: u32::try_from(cmdline.len()).map_err(|_| Errno::INVAL)?,
        ..Default::default()
    };
    call(node, &mut check)
}

pub(crate) fn restart(node: BorrowedFd<'_>, silent_ms: u32) -> Result<(), Errno> {
    let mut restart = abi::BoatRestart {
        size: size_of_u32::<abi::BoatRestart>(),
        silent_ms,
        ..Default::default()
    };
    call(node, &mut restart)
}

pub(crate) fn message(node: BorrowedFd<'_>) -> Result<abi::BoatMessage, Errno> {
    let mut message = abi::BoatMessage {
        size: size_of_u32::<abi::BoatMessage>(),
        flags: 0,
        error: 0,
        pad: 0,
        message: [0; abi::FDBOX_BOAT_MESSAGE_LEN],
    };
    call(node, &mut message)?;
    Ok(message)
}
