//! The UAPI of `include/uapi/linux/fdbox_boat.h`.

use rustix::ioctl::{Opcode, opcode};

use super::{FDBOX_BASE, FDBOX_TYPE};

/// Maximum number of CPUs of a boat.
pub const FDBOX_BOAT_MAX_CPUS: u32 = 64;
/// Bytes in the message of [`BoatMessage`], its NUL included.
pub const FDBOX_BOAT_MESSAGE_LEN: usize = 256;

/// There is no boat.
pub const FDBOX_BOAT_OFF: u32 = 0;
/// It has memory with a kernel.
pub const FDBOX_BOAT_LOADED: u32 = 1;
/// Its kernel runs, and sends beats.
pub const FDBOX_BOAT_RUNNING: u32 = 2;
/// It was started, and is silent.
pub const FDBOX_BOAT_LOST: u32 = 3;
/// In the boat's own kernel: the host beats.
pub const FDBOX_BOAT_ABOARD: u32 = 4;
/// In the boat's own kernel: the host is silent, or has panicked.
pub const FDBOX_BOAT_ALONE: u32 = 5;

/// The kernel that is loaded for a kexec is taken along, to restart the host by it.
pub const FDBOX_BOAT_LOAD_RESCUE: u32 = 1;

/// Loads a boat; takes [`BoatLoad`].
pub const FDBOX_BOAT_LOAD: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 16);
/// Starts it; takes [`BoatStart`].
pub const FDBOX_BOAT_START: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 17);
/// Stops it; takes [`BoatStop`].
pub const FDBOX_BOAT_STOP: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 18);
/// Queries its state; takes [`BoatStatus`].
pub const FDBOX_BOAT_STATUS: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 19);
/// Checks a next kernel's command line; takes [`BoatCheck`].
pub const FDBOX_BOAT_CHECK: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 20);
/// Queries why the last command was refused; takes [`BoatMessage`].
pub const FDBOX_BOAT_MESSAGE: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 21);
/// In the boat: restarts the host; takes [`BoatRestart`].
pub const FDBOX_BOAT_RESTART: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 22);
/// Gives it more of its CPUs; takes [`BoatLend`].
pub const FDBOX_BOAT_LEND: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 23);

/// Argument of [`FDBOX_BOAT_LOAD`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct BoatLoad {
    /// Bytes of this struct.
    pub size: u32,
    /// `FDBOX_BOAT_LOAD_*`.
    pub flags: u32,
    /// A bzImage.
    pub kernel_fd: i32,
    /// -1: none.
    pub initramfs_fd: i32,
    /// Address of the command line.
    pub cmdline: u64,
    /// Its bytes, without a NUL.
    pub cmdline_len: u32,
    /// The boat's memory.
    pub memory_mib: u32,
    /// Address of the CPUs' numbers, a `u32` each.
    pub cpus: u64,
    /// How many they are.
    pub nr_cpus: u32,
    /// How many of them it starts with, from the first on; 0: all.
    pub nr_start: u32,
}

/// Argument of [`FDBOX_BOAT_START`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct BoatStart {
    /// Bytes of this struct.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// How long to wait; 0: a minute.
    pub start_ms: u32,
    /// How long it may be silent; 0: 10 s.
    pub silence_ms: u32,
}

/// Argument of [`FDBOX_BOAT_STOP`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct BoatStop {
    /// Bytes of this struct.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// How long to wait; 0: 10 s.
    pub limit_ms: u32,
    /// 0.
    pub pad: u32,
}

/// Argument of [`FDBOX_BOAT_STATUS`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct BoatStatus {
    /// Bytes of this struct.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// `FDBOX_BOAT_OFF` to `FDBOX_BOAT_ALONE`.
    pub state: u32,
    /// How many CPUs it has.
    pub nr_cpus: u32,
    /// Physical address of its memory; 0: none.
    pub memory: u64,
    /// Bytes of it.
    pub memory_bytes: u64,
    /// A random number that identifies this run of the boat.
    pub life: u64,
    /// Beats since its start.
    pub beats: u64,
    /// The longest time between two beats, by its own clock.
    pub largest_gap_ns: u64,
    /// Beats of all kernels that have watched it.
    pub host_beats: u64,
    /// How many these are, with this one.
    pub kernels: u64,
    /// In the boat: 1 if the host has said that it panicked.
    pub host_panicked: u32,
    /// Unused.
    pub pad: u32,
    /// In the boat: how long the host has been silent.
    pub host_silent_ms: u64,
}

/// Argument of [`FDBOX_BOAT_CHECK`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct BoatCheck {
    /// Bytes of this struct.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// Address of the command line.
    pub cmdline: u64,
    /// Its bytes, without a NUL.
    pub cmdline_len: u32,
    /// 0.
    pub pad: u32,
}

/// Argument of [`FDBOX_BOAT_MESSAGE`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct BoatMessage {
    /// Bytes of this struct.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// An errno; 0: nothing was refused yet.
    pub error: u32,
    /// 0.
    pub pad: u32,
    /// The reason, NUL-terminated.
    pub message: [u8; FDBOX_BOAT_MESSAGE_LEN],
}

/// Argument of [`FDBOX_BOAT_RESTART`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct BoatRestart {
    /// Bytes of this struct.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// For how long the host has to have been silent, unless it has panicked.
    pub silent_ms: u32,
    /// 0.
    pub pad: u32,
}

/// Argument of [`FDBOX_BOAT_LEND`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct BoatLend {
    /// Bytes of this struct.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// How many CPUs it has then, from the first on.
    pub nr_cpus: u32,
    /// How long to wait; 0: 10 s.
    pub limit_ms: u32,
}
