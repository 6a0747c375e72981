//! The UAPI of `include/uapi/linux/fdbox.h` and `fdbox_boat.h`: opcodes, structs and constants.
//!
//! Names are those of the header, without the `FDBOX_` prefix where the module path already says
//! it. `tests/header.rs` compares every size, offset and number with the header. Intended for tests
//! and for tools that use single ioctls; a VMM uses [`Control`](crate::Control).

use rustix::ioctl::{Opcode, opcode};

mod boat;

pub use boat::*;

/// Bytes in a name, its terminating NUL included.
pub const FDBOX_NAME_LEN: usize = 256;
/// Bytes in a compatible string, its terminating NUL included.
pub const FDBOX_COMPATIBLE_LEN: usize = 48;
/// Bytes in the message of [`SealError`], its NUL included.
pub const FDBOX_MESSAGE_LEN: usize = 256;

/// The ioctl type of every FDBox command.
pub const FDBOX_TYPE: u8 = b'.';
/// The number of the first command.
pub const FDBOX_BASE: u8 = 0;

/// Creates a box; takes [`CreateBox`].
pub const FDBOX_CREATE_BOX: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE);
/// Deletes a box; takes [`DeleteBox`].
pub const FDBOX_DELETE_BOX: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 1);
/// Moves a descriptor into a box; takes [`PutFd`].
pub const FDBOX_PUT_FD: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 2);
/// Moves a descriptor out of a box, or shares it; takes [`GetFd`], returns its number.
pub const FDBOX_GET_FD: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 3);
/// Seals a box; takes nothing.
pub const FDBOX_SEAL: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 4);
/// Unseals a box; takes nothing.
pub const FDBOX_UNSEAL: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 5);
/// Queries what kernel and module can do; takes [`Info`].
pub const FDBOX_INFO: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 6);
/// Lists boxes, one per call; takes [`NextBox`].
pub const FDBOX_NEXT_BOX: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 7);
/// Lists descriptors of a box, one per call; takes [`NextFd`].
pub const FDBOX_NEXT_FD: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 8);
/// Queries why the last seal failed; takes [`SealError`].
pub const FDBOX_SEAL_ERROR: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 9);

/// Lists what an unseal found to be lost, one per call; takes [`NextLost`].
pub const FDBOX_NEXT_LOST: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 10);
/// Unseals a box even if descriptors are lost; takes [`Salvage`].
pub const FDBOX_SALVAGE: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 11);
/// Creates a box that the host lends to its boat, in the boat; takes [`Borrow`].
pub const FDBOX_BORROW: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 12);
/// Lends a box to the boat, or tells who has it; takes [`Lend`].
pub const FDBOX_LEND: Opcode = opcode::none(FDBOX_TYPE, FDBOX_BASE + 13);

/// The UAPI version that this crate was written against.
pub const FDBOX_UAPI_VERSION: u32 = 1;

/// SEAL reaches the next kernel.
pub const FDBOX_FEATURE_KHO: u64 = 1 << 0;
/// This kernel was started with a handover.
pub const FDBOX_FEATURE_KHO_BOOT: u64 = 1 << 1;
/// The module keeps memfds.
pub const FDBOX_FEATURE_MEMFD: u64 = 1 << 2;
/// The module keeps KVM VMs.
pub const FDBOX_FEATURE_KVM_VM: u64 = 1 << 3;
/// The module keeps guest_memfds.
pub const FDBOX_FEATURE_GUEST_MEMFD: u64 = 1 << 4;
/// A handover arrived and was refused; the kernel log says why.
pub const FDBOX_FEATURE_REFUSED: u64 = 1 << 5;

/// The module keeps iommufds.
pub const FDBOX_FEATURE_IOMMUFD: u64 = 1 << 6;
/// The module keeps VFIO PCI devices, with ongoing DMA.
pub const FDBOX_FEATURE_VFIO_PCI: u64 = 1 << 7;
/// The module keeps memfds of huge pages.
pub const FDBOX_FEATURE_HUGETLB: u64 = 1 << 8;

/// The box accepts and returns descriptors.
pub const FDBOX_STATE_OPEN: u32 = 0;
/// The box is sealed.
pub const FDBOX_STATE_SEALED: u32 = 1;

/// An open file of this kernel.
pub const FDBOX_FD_LIVE: u32 = 0;
/// From the last kernel; GET_FD restores it.
pub const FDBOX_FD_INCOMING: u32 = 1;
/// From the last kernel, of a kind that is not registered.
pub const FDBOX_FD_UNKNOWN: u32 = 2;

/// No more precise reason.
pub const FDBOX_REASON_OTHER: u32 = 0;
/// Something that the descriptor depends on is not in the box.
pub const FDBOX_REASON_MISSING_DEPENDENCY: u32 = 1;
/// The file is held by another sealed box or by LUO.
pub const FDBOX_REASON_SHARED_FILE: u32 = 2;
/// The descriptor is in a state that its kind cannot carry.
pub const FDBOX_REASON_UNSUPPORTED_STATE: u32 = 3;
/// Out of memory.
pub const FDBOX_REASON_NO_MEMORY: u32 = 4;

/// No more precise reason.
pub const FDBOX_LOST_OTHER: u32 = 0;
/// Nothing in this kernel restores the descriptor's kind.
pub const FDBOX_LOST_UNKNOWN_KIND: u32 = 1;
/// The last kernel did not preserve its memory.
pub const FDBOX_LOST_MEMORY: u32 = 2;
/// Something it depends on is not in the box.
pub const FDBOX_LOST_DEPENDENCY: u32 = 3;
/// Its saved state cannot be read.
pub const FDBOX_LOST_DATA: u32 = 4;
/// Its driver refuses.
pub const FDBOX_LOST_REFUSED: u32 = 5;

/// Argument of [`FDBOX_CREATE_BOX`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CreateBox {
    /// None defined: 0.
    pub flags: u64,
    /// The box's name, NUL-terminated.
    pub name: [u8; FDBOX_NAME_LEN],
}

/// Argument of [`FDBOX_DELETE_BOX`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DeleteBox {
    /// None defined: 0.
    pub flags: u64,
    /// The box's name, NUL-terminated.
    pub name: [u8; FDBOX_NAME_LEN],
}

/// Argument of [`FDBOX_PUT_FD`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PutFd {
    /// None defined: 0.
    pub flags: u64,
    /// The descriptor's number in the caller.
    pub fd: u32,
    /// Must be 0.
    pub pad: u32,
    /// The descriptor's name in the box, NUL-terminated.
    pub name: [u8; FDBOX_NAME_LEN],
}

/// A flag of [`GetFd`]: the box also keeps the file that is returned.
pub const FDBOX_GET_KEEP: u64 = 1 << 0;

/// Argument of [`FDBOX_GET_FD`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GetFd {
    /// `FDBOX_GET_*`.
    pub flags: u64,
    /// The descriptor's name in the box, NUL-terminated.
    pub name: [u8; FDBOX_NAME_LEN],
}

/// Argument of [`FDBOX_INFO`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Info {
    /// Bytes of this struct that the caller knows.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// UAPI version of the module.
    pub uapi_version: u32,
    /// Major version of the handover ABI.
    pub handover_version: u32,
    /// `FDBOX_FEATURE_*`.
    pub features: u64,
    /// Number of boxes.
    pub boxes: u64,
    /// Size of the blob for the next kernel.
    pub handover_bytes: u64,
    /// Page extents that the blob keeps.
    pub handover_extents: u64,
    /// 4 KiB pages in those extents.
    pub handover_pages: u64,
}

/// Argument of [`FDBOX_NEXT_BOX`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NextBox {
    /// Bytes of this struct that the caller knows.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// In: 0 to start; out: where to continue.
    pub cursor: u64,
    /// `FDBOX_STATE_*`.
    pub state: u32,
    /// Descriptors in the box.
    pub fds: u32,
    /// The box's name, NUL-terminated.
    pub name: [u8; FDBOX_NAME_LEN],
}

/// Argument of [`FDBOX_NEXT_FD`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NextFd {
    /// Bytes of this struct that the caller knows.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// In: 0 to start; out: where to continue.
    pub cursor: u64,
    /// `FDBOX_FD_*`.
    pub state: u32,
    /// Must be 0.
    pub pad: u32,
    /// Bytes of memory it holds; 0 if it holds none.
    pub bytes: u64,
    /// The descriptor's name in the box, NUL-terminated.
    pub name: [u8; FDBOX_NAME_LEN],
    /// Its kind, NUL-terminated.
    pub compatible: [u8; FDBOX_COMPATIBLE_LEN],
}

/// Argument of [`FDBOX_SEAL_ERROR`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SealError {
    /// Bytes of this struct that the caller knows.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// The errno, positive.
    pub error: i32,
    /// `FDBOX_REASON_*`.
    pub reason: u32,
    /// The descriptor that could not be sealed, NUL-terminated.
    pub name: [u8; FDBOX_NAME_LEN],
    /// What is missing and what to do, NUL-terminated.
    pub message: [u8; FDBOX_MESSAGE_LEN],
}

/// Argument of [`FDBOX_NEXT_LOST`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NextLost {
    /// Bytes of this struct that the caller knows.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// In: 0 to start; out: where to continue.
    pub cursor: u64,
    /// The errno, positive.
    pub error: i32,
    /// `FDBOX_LOST_*`.
    pub reason: u32,
    /// The descriptor's name in the box, NUL-terminated.
    pub name: [u8; FDBOX_NAME_LEN],
    /// Its kind, NUL-terminated.
    pub compatible: [u8; FDBOX_COMPATIBLE_LEN],
    /// What is missing and what to do, NUL-terminated.
    pub message: [u8; FDBOX_MESSAGE_LEN],
}

/// Argument of [`FDBOX_SALVAGE`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Salvage {
    /// Bytes of this struct that the caller knows.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// Out: number of lost descriptors.
    pub lost: u64,
}

/// Argument of [`FDBOX_BORROW`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Borrow {
    /// Bytes of this struct that the caller knows.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// The box's name, NUL-terminated.
    pub name: [u8; FDBOX_NAME_LEN],
}

/// Argument of [`FDBOX_LEND`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Lend {
    /// Bytes of this struct that the caller knows.
    pub size: u32,
    /// None defined: 0.
    pub flags: u32,
    /// `FDBOX_LEND_*`.
    pub act: u32,
    /// Out: `FDBOX_HOLDER_*`.
    pub holder: u32,
    /// Out: 1 if the host asks the boat for the box.
    pub wanted: u32,
    /// Out: 1 if somebody in the boat waits for the box.
    pub ready: u32,
    /// Out: increases when the box is lent anew.
    pub generation: u64,
    /// Out: 1 if the boat is lost, in the host.
    pub lost: u32,
    /// Unused.
    pub pad: u32,
}

/// Only returns who has the box.
pub const FDBOX_LEND_LOOK: u32 = 0;
/// Lets the boat map the box.
pub const FDBOX_LEND_SHOW: u32 = 1;
/// Lets the boat take the box.
pub const FDBOX_LEND_OFFER: u32 = 2;
/// Ends that, or asks the boat for the box.
pub const FDBOX_LEND_RECALL: u32 = 3;
/// In the boat: tells the host that somebody waits for the box.
pub const FDBOX_LEND_READY: u32 = 4;

/// The box is the host's, and the boat must not use it.
pub const FDBOX_HOLDER_HOST: u32 = 0;
/// The box is the host's, and the boat may map it.
pub const FDBOX_HOLDER_SHOWN: u32 = 1;
/// The box is of whoever takes it first.
pub const FDBOX_HOLDER_OFFERED: u32 = 2;
/// The box is the boat's.
pub const FDBOX_HOLDER_BOAT: u32 = 3;
