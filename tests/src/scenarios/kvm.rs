//! The part of KVM that is needed for guest memory without a VMM.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::io::Errno;

const KVM_CREATE_VM: u64 = 0xae01;
/// `_IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)`.
const KVM_CREATE_GUEST_MEMFD: u64 = 0xc040_aed4;

/// `_IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)`.
const KVM_SET_USER_MEMORY_REGION2: u64 = 0x40a0_ae49;
const KVM_MEM_GUEST_MEMFD: u32 = 1 << 2;

/// `struct kvm_userspace_memory_region2`.
#[repr(C)]
struct MemoryRegion2 {
    slot: u32,
    flags: u32,
    guest_phys_addr: u64,
    memory_size: u64,
    userspace_addr: u64,
    guest_memfd_offset: u64,
    guest_memfd: u32,
    pad1: u32,
    pad2: [u64; 14],
}

/// Userspace may map the file.
pub(crate) const MMAP: u64 = 1 << 0;
/// All of it is shared with the host from the beginning.
pub(crate) const INIT_SHARED: u64 = 1 << 1;

/// `struct kvm_create_guest_memfd`.
#[repr(C)]
struct CreateGuestMemfd {
    size: u64,
    flags: u64,
    reserved: [u64; 6],
}

/// An empty VM.
#[derive(Debug)]
pub(crate) struct Vm(OwnedFd);

impl Vm {
    pub(crate) fn create() -> Result<Self> {
        let kvm = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .context("Open KVM")?;
        // SAFETY: the argument is the type of the VM, a number.
        let number = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CREATE_VM as _, 0) };
        Ok(Self(descriptor(number).context("Create a VM")?))
    }

    /// A VM that was taken out of a box.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    pub(crate) fn try_clone(&self) -> Result<OwnedFd> {
        Ok(self.0.try_clone()?)
    }

    /// Guest memory that belongs to this VM.
    pub(crate) fn guest_memfd(&self, size: u64, flags: u64) -> Result<OwnedFd> {
        let argument = CreateGuestMemfd {
            size,
            flags,
            reserved: [0; 6],
        };
        let pointer: *const CreateGuestMemfd = &argument;
        // SAFETY: the pointer refers to the struct that the command reads.
        let number =
            unsafe { libc::ioctl(self.0.as_raw_fd(), KVM_CREATE_GUEST_MEMFD as _, pointer) };
        descriptor(number).context("Create a guest_memfd")
    }

    /// Makes `memory`, which is mapped, the guest's memory from address 0 on. KVM accepts only
    /// memory that belongs to this VM.
    pub(crate) fn bind(&self, memory: &OwnedFd, mapped: &mut Mapped) -> Result<()> {
        let bytes = mapped.bytes();
        let region = MemoryRegion2 {
            slot: 0,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: 0,
            memory_size: bytes.len() as u64,
            userspace_addr: bytes.as_mut_ptr().addr() as u64,
            guest_memfd_offset: 0,
            guest_memfd: memory.as_raw_fd() as u32,
            pad1: 0,
            pad2: [0; 14],
        };
        let pointer: *const MemoryRegion2 = &region;
        // SAFETY: the pointer refers to the struct that the command reads; there is no vCPU that
        // could use the memory it describes.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                KVM_SET_USER_MEMORY_REGION2 as _,
                pointer,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()).context("Give the VM its memory"),
        }
    }

    /// Whether this process can use it with KVM: a VM works only in the process that created it.
    pub(crate) fn works(&self) -> Result<bool> {
        match self.guest_memfd(crate::memory::PAGE, MMAP | INIT_SHARED) {
            Ok(_) => Ok(true),
            Err(error) if error.downcast_ref() == Some(&Errno::IO) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Vm {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn descriptor(number: i32) -> Result<OwnedFd, Errno> {
    if number < 0 {
        let code = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or_default();
        return Err(Errno::from_raw_os_error(code));
    }
    // SAFETY: the kernel has just created this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Guest memory, mapped: guest_memfd does not support read and write.
#[derive(Debug)]
pub(crate) struct Mapped {
    bytes: &'static mut [u8],
}

impl Mapped {
    pub(crate) fn new(file: &File, len: u64) -> Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping at no particular address does not affect existing ones.
        let start = unsafe { mmap(null, len as usize, protection, flags, file, 0) };
        let start = start.context("Map the guest memory")?;
        // SAFETY: the mapping has this length and is never unmapped, and this process, which has
        // the only reference to it, runs no vCPU that could write to it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast(), len as usize) };
        Ok(Self { bytes })
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.bytes
    }
}
