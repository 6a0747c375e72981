//! The ioctls, written by hand from the header: the tests must not share a mistake with the
//! library. Every argument can be made wrong on purpose.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

const TYPE: u32 = b'.' as u32;

/// `_IO('.', nr)`.
pub(crate) const fn io(nr: u32) -> u32 {
    (TYPE << 8) | nr
}

pub(crate) const CREATE_BOX: u32 = io(0);
pub(crate) const DELETE_BOX: u32 = io(1);
pub(crate) const PUT_FD: u32 = io(2);
pub(crate) const GET_FD: u32 = io(3);
pub(crate) const SEAL: u32 = io(4);
pub(crate) const UNSEAL: u32 = io(5);
pub(crate) const INFO: u32 = io(6);
pub(crate) const NEXT_BOX: u32 = io(7);
pub(crate) const NEXT_FD: u32 = io(8);
pub(crate) const SEAL_ERROR: u32 = io(9);
pub(crate) const NEXT_LOST: u32 = io(10);
pub(crate) const SALVAGE: u32 = io(11);
pub(crate) const BORROW: u32 = io(12);
pub(crate) const LEND: u32 = io(13);

/// Flag of GET_FD: the descriptor also stays in the box.
pub(crate) const GET_KEEP: u64 = 1;

/// A NUL-terminated name in its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct NameArray(pub(crate) [u8; 256]);

impl NameArray {
    pub(crate) fn new(name: &str) -> Self {
        Self::of_bytes(name.as_bytes())
    }

    /// Any bytes, truncated at the array's end: without a NUL if they fill it.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let mut array = [0; 256];
        let len = bytes.len().min(array.len());
        array[..len].copy_from_slice(&bytes[..len]);
        Self(array)
    }

    pub(crate) fn text(&self) -> String {
        text(&self.0)
    }
}

/// CREATE_BOX, DELETE_BOX and GET_FD.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Named {
    pub(crate) flags: u64,
    pub(crate) name: NameArray,
}

impl Named {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            flags: 0,
            name: NameArray::new(name),
        }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct PutFd {
    pub(crate) flags: u64,
    pub(crate) fd: i32,
    pub(crate) pad: u32,
    pub(crate) name: NameArray,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Info {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) uapi_version: u32,
    pub(crate) handover_version: u32,
    pub(crate) features: u64,
    pub(crate) boxes: u64,
    pub(crate) handover_bytes: u64,
    pub(crate) handover_extents: u64,
    pub(crate) handover_pages: u64,
}

pub(crate) const FEATURE_KHO: u64 = 1 << 0;
pub(crate) const FEATURE_KHO_BOOT: u64 = 1 << 1;
pub(crate) const FEATURE_MEMFD: u64 = 1 << 2;
pub(crate) const FEATURE_KVM_VM: u64 = 1 << 3;
pub(crate) const FEATURE_GUEST_MEMFD: u64 = 1 << 4;
pub(crate) const FEATURE_REFUSED: u64 = 1 << 5;
pub(crate) const FEATURE_IOMMUFD: u64 = 1 << 6;
pub(crate) const FEATURE_VFIO_PCI: u64 = 1 << 7;
pub(crate) const FEATURE_HUGETLB: u64 = 1 << 8;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct NextBox {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) cursor: u64,
    pub(crate) state: u32,
    pub(crate) fds: u32,
    pub(crate) name: NameArray,
}

pub(crate) const STATE_OPEN: u32 = 0;
pub(crate) const STATE_SEALED: u32 = 1;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct NextFd {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) cursor: u64,
    pub(crate) state: u32,
    pub(crate) pad: u32,
    pub(crate) bytes: u64,
    pub(crate) name: NameArray,
    pub(crate) compatible: [u8; 48],
}

pub(crate) const FD_LIVE: u32 = 0;
pub(crate) const FD_INCOMING: u32 = 1;
pub(crate) const FD_UNKNOWN: u32 = 2;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct SealError {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) error: i32,
    pub(crate) reason: u32,
    pub(crate) name: NameArray,
    pub(crate) message: [u8; 256],
}

pub(crate) const REASON_MISSING_DEPENDENCY: u32 = 1;
pub(crate) const REASON_SHARED_FILE: u32 = 2;
pub(crate) const REASON_UNSUPPORTED_STATE: u32 = 3;
pub(crate) const REASON_NO_MEMORY: u32 = 4;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct NextLost {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) cursor: u64,
    pub(crate) error: i32,
    pub(crate) reason: u32,
    pub(crate) name: NameArray,
    pub(crate) compatible: [u8; 48],
    pub(crate) message: [u8; 256],
}

pub(crate) const LOST_UNKNOWN_KIND: u32 = 1;
pub(crate) const LOST_MEMORY: u32 = 2;
pub(crate) const LOST_DEPENDENCY: u32 = 3;
pub(crate) const LOST_DATA: u32 = 4;
pub(crate) const LOST_REFUSED: u32 = 5;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Salvage {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) lost: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Borrow {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) name: NameArray,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Lend {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) act: u32,
    pub(crate) holder: u32,
    pub(crate) wanted: u32,
    pub(crate) ready: u32,
    pub(crate) generation: u64,
    pub(crate) lost: u32,
    pub(crate) pad: u32,
}

pub(crate) const LEND_LOOK: u32 = 0;
pub(crate) const LEND_SHOW: u32 = 1;
pub(crate) const LEND_OFFER: u32 = 2;
pub(crate) const LEND_RECALL: u32 = 3;
pub(crate) const LEND_READY: u32 = 4;

pub(crate) const HOLDER_HOST: u32 = 0;
pub(crate) const HOLDER_SHOWN: u32 = 1;
pub(crate) const HOLDER_OFFERED: u32 = 2;
pub(crate) const HOLDER_BOAT: u32 = 3;

/// Larger than any growable struct may be.
const BYTES: usize = 4096 + 8;

/// Bytes for a struct of any size.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Bytes([u8; BYTES]);

impl Bytes {
    /// A growable struct of `size` bytes, all zero except for its flags and the last byte.
    pub(crate) fn growable(size: u32, flags: u32, last: u8) -> Self {
        let mut bytes = [0; BYTES];
        if size > 0 {
            bytes[size as usize - 1] = last;
        }
        bytes[..4].copy_from_slice(&size.to_ne_bytes());
        bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }
}

/// Structs without padding, all of whose bytes are plain data.
///
/// # Safety
///
/// Any bytes must be a valid value, and every byte of a value must be initialised.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers and byte arrays without padding between them (the sizes are checked below).
unsafe impl Plain for Named {}
// SAFETY: as above.
unsafe impl Plain for PutFd {}
// SAFETY: as above.
unsafe impl Plain for Info {}
// SAFETY: as above.
unsafe impl Plain for NextBox {}
// SAFETY: as above.
unsafe impl Plain for NextFd {}
// SAFETY: as above.
unsafe impl Plain for SealError {}
// SAFETY: as above.
unsafe impl Plain for NextLost {}
// SAFETY: as above.
unsafe impl Plain for Salvage {}
// SAFETY: as above.
unsafe impl Plain for Borrow {}
// SAFETY: as above.
unsafe impl Plain for Lend {}
// SAFETY: a byte array.
unsafe impl Plain for Bytes {}
const _: () = {
    assert!(size_of::<Named>() == 8 + 256);
    assert!(size_of::<PutFd>() == 8 + 4 + 4 + 256);
    assert!(size_of::<Info>() == 4 * 4 + 5 * 8);
    assert!(size_of::<NextBox>() == 4 * 4 + 8 + 256);
    assert!(size_of::<NextFd>() == 4 * 4 + 2 * 8 + 256 + 48);
    assert!(size_of::<SealError>() == 4 * 4 + 256 + 256);
    assert!(size_of::<NextLost>() == 4 * 4 + 8 + 256 + 48 + 256);
    assert!(size_of::<Salvage>() == 2 * 4 + 8);
    assert!(size_of::<Borrow>() == 2 * 4 + 256);
    assert!(size_of::<Lend>() == 6 * 4 + 8 + 2 * 4);
};

/// Calls `command` on `fd` with a struct, which the kernel may fill in.
pub(crate) fn call<T: Plain>(fd: impl AsFd, command: u32, argument: &mut T) -> Result<i32, Errno> {
    let pointer: *mut T = argument;
    // SAFETY: the pointer refers to memory of the size of the command's struct, all plain bytes.
    // For a growable struct the size is the one in its first field, which callers never exceed.
    unsafe { call_raw(fd, command, pointer as usize) }
}

/// The same with a copy of the struct in read-only memory.
pub(crate) fn call_read_only<T: Plain>(
    fd: impl AsFd,
    command: u32,
    argument: &T,
) -> anyhow::Result<Result<i32, Errno>> {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
    let len = size_of::<T>();
    let (null, protection) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new mapping at no particular address does not affect existing ones.
    let memory = unsafe { mmap_anonymous(null, len, protection, MapFlags::PRIVATE)? };
    // SAFETY: the mapping has at least this length, begins at a page, and belongs to this function.
    unsafe { memory.cast::<T>().write(*argument) };
    // SAFETY: as above; nothing writes to it any more.
    unsafe { mprotect(memory, len, MprotectFlags::READ)? };
    // SAFETY: as in `call()`; the kernel cannot write to this memory.
    let result = unsafe { call_raw(fd, command, memory as usize) };
    // SAFETY: nothing uses the mapping any more.
    unsafe { munmap(memory, len)? };
    Ok(result)
}

/// Calls a command that takes no argument, or a number that is not an address.
pub(crate) fn call_plain(fd: impl AsFd, command: u32, argument: usize) -> Result<i32, Errno> {
    assert!(
        argument < 4096,
        "a small number cannot be an address that is mapped"
    );
    // SAFETY: no memory is mapped there, so the kernel can access none.
    unsafe { call_raw(fd, command, argument) }
}

/// # Safety
///
/// The memory that the command reads or writes at `argument` must be readable or writable.
unsafe fn call_raw(fd: impl AsFd, command: u32, argument: usize) -> Result<i32, Errno> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open; the caller guarantees the rest.
    let result = unsafe { libc::ioctl(fd, command as libc::c_ulong as _, argument) };
    if result < 0 {
        Err(last_error())
    } else {
        Ok(result)
    }
}

fn last_error() -> Errno {
    let code = std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or_default();
    Errno::from_raw_os_error(code)
}

/// The bytes up to the first NUL, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
