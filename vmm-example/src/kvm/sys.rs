//! Safe functions for what kvm-ioctls and kvm-bindings lack, and for their unsafe parts.
//!
//! Opcodes are checked against their documented numbers in the tests below.

#![allow(
    unsafe_code,
    reason = "this file is the thin layer around KVM's ioctls"
)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Xsave, kvm_create_guest_memfd, kvm_device_attr,
    kvm_nested_state, kvm_pre_fault_memory, kvm_sregs2, kvm_userspace_memory_region2, kvm_xsave,
};
use kvm_ioctls::{Kvm, KvmNestedStateBuffer, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};
use zerocopy::IntoBytes;

use crate::memory::device::DeviceMapping;
use crate::memory::layout::RamRange;

/// `GUEST_MEMFD_FLAG_MMAP`, include/uapi/linux/kvm.h since Linux 6.18.
const GUEST_MEMFD_FLAG_MMAP: u64 = 1 << 0;
/// `GUEST_MEMFD_FLAG_INIT_SHARED`, include/uapi/linux/kvm.h since Linux 6.18.
const GUEST_MEMFD_FLAG_INIT_SHARED: u64 = 1 << 1;
/// `KVM_CAP_GUEST_MEMFD_FLAGS`, include/uapi/linux/kvm.h since Linux 6.18.
pub(super) const KVM_CAP_GUEST_MEMFD_FLAGS: u64 = 244;

ioctl_io_nr!(KVM_SET_TSC_KHZ, KVMIO, 0xa2);
ioctl_ior_nr!(KVM_GET_SREGS2, KVMIO, 0xcc, kvm_sregs2);
ioctl_iow_nr!(KVM_SET_SREGS2, KVMIO, 0xcd, kvm_sregs2);
ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// The size of `struct kvm_sregs2`.
pub(super) const SREGS2_LEN: usize = size_of::<kvm_sregs2>();

/// Turns an ioctl's return value into a result.
fn check(ret: i32) -> errno::Result<()> {
    if ret < 0 {
        Err(errno::Error::last())
    } else {
        Ok(())
    }
}

/// Duplicates the descriptor of /dev/kvm.
pub(super) fn kvm_descriptor(kvm: &Kvm) -> std::io::Result<OwnedFd> {
    // SAFETY: the descriptor stays open for as long as `kvm` is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(kvm.as_raw_fd()) };
    fd.try_clone_to_owned()
}

/// Makes a handle from a descriptor of /dev/kvm. For any other file, every call fails.
pub(super) fn adopt_kvm(fd: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is open, and nothing else has its number any more.
    unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) }
}

/// Makes a VM from a descriptor that came out of a box.
pub(super) fn adopt_vm(kvm: &Kvm, fd: OwnedFd) -> errno::Result<VmFd> {
    // The new `VmFd` queries this size too; a failure there would be after the descriptor was given
    // away.
    kvm.get_vcpu_mmap_size()?;
    // SAFETY: `fd` is open and owned by this function; `into_raw_fd` gives up that
    // ownership, so that the new `VmFd` is its only owner.
    unsafe { kvm.create_vmfd_from_rawfd(fd.into_raw_fd()) }
}

/// Creates a mappable, fully shared guest_memfd.
pub(super) fn create_guest_memfd(vm: &VmFd, bytes: u64) -> errno::Result<OwnedFd> {
    let fd = vm.create_guest_memfd(kvm_create_guest_memfd {
        size: bytes,
        flags: GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
        ..Default::default()
    })?;
    // SAFETY: the ioctl has just created this descriptor; nothing else has its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives future vCPUs the current frequency of the host's TSC, if it is known.
pub(super) fn follow_host_tsc(vm: &VmFd) -> errno::Result<()> {
    // SAFETY: the argument is a number, not a pointer; 0 stands for the host's frequency.
    check(unsafe { ioctl_with_val(vm, KVM_SET_TSC_KHZ(), 0) })
}

/// Duplicates the descriptor of a VM.
pub(super) fn duplicate_vm(vm: &VmFd) -> std::io::Result<OwnedFd> {
    // SAFETY: the descriptor stays open for as long as `vm` is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(vm.as_raw_fd()) };
    fd.try_clone_to_owned()
}

/// Maps a range of guest memory into a VM.
pub(super) fn set_memory_region(
    vm: &VmFd,
    slot: u32,
    range: RamRange,
    memory: &GuestMemoryMmap,
    guest_memfd: Option<BorrowedFd<'_>>,
) -> errno::Result<()> {
    let region = memory
        .iter()
        .find(|region| region.start_addr().0 == range.gpa && region.len() == range.len)
        .ok_or_else(|| errno::Error::new(libc::EINVAL))?;
    let slot = kvm_userspace_memory_region2 {
        slot,
        flags: if guest_memfd.is_some() {
            kvm_bindings::KVM_MEM_GUEST_MEMFD
        } else {
            0
        },
        guest_phys_addr: range.gpa,
        memory_size: range.len,
        userspace_addr: region.as_ptr() as u64,
        guest_memfd_offset: if guest_memfd.is_some() {
            range.file_offset
        } else {
            0
        },
        guest_memfd: guest_memfd.map_or(0, |fd| fd.as_raw_fd() as u32),
        ..Default::default()
    };
    // SAFETY: the addresses are those of a live mapping of exactly this length, created to be
    // shared with a guest: Rust code accesses it only through volatile accesses. The VMM drops the
    // mapping after the VM (see `GuestRam`).
    unsafe { vm.set_user_memory_region2(slot) }
}

/// Has KVM map a range of guest memory for a vCPU and all others, as the guest's accesses would. Returns what is left
/// of the range: the call ends early if a signal arrives.
pub(super) fn pre_fault(vcpu: &VcpuFd, gpa: u64, len: u64) -> errno::Result<(u64, u64)> {
    let mut range = kvm_pre_fault_memory {
        gpa,
        size: len,
        ..Default::default()
    };
    // SAFETY: the argument is of the type that this request reads and writes, and lives until the call returns. Only
    // memory that the VM already has is mapped.
    check(unsafe { ioctl_with_mut_ref(vcpu, KVM_PRE_FAULT_MEMORY(), &mut range) })?;
    Ok((range.gpa, range.size))
}

/// Maps a part of a device's memory into a VM.
pub(super) fn set_device_memory(
    vm: &VmFd,
    slot: u32,
    gpa: u64,
    mapping: &DeviceMapping,
    offset: u64,
    len: u64,
) -> errno::Result<()> {
    let userspace_addr = mapping
        .range(offset, len)
        .ok_or_else(|| errno::Error::new(libc::EINVAL))?;
    let region = kvm_userspace_memory_region2 {
        slot,
        guest_phys_addr: gpa,
        memory_size: len,
        userspace_addr,
        ..Default::default()
    };
    // SAFETY: the addresses are those of a live mapping of a device, which this process never
    // reads or writes; it stays for as long as the slot (see `DeviceSlot`).
    unsafe { vm.set_user_memory_region2(region) }
}

/// Removes a slot's memory from a VM.
pub(super) fn delete_memory(vm: &VmFd, slot: u32) -> errno::Result<()> {
    let region = kvm_userspace_memory_region2 {
        slot,
        ..Default::default()
    };
    // SAFETY: a region of length 0 deletes the slot; no address is passed.
    unsafe { vm.set_user_memory_region2(region) }
}

/// `KVM_GET_SREGS2` as bytes.
pub(super) fn get_sregs2(vcpu: &VcpuFd) -> errno::Result<[u8; SREGS2_LEN]> {
    let mut bytes = [0; SREGS2_LEN];
    // SAFETY: the kernel writes one `struct kvm_sregs2`, which is the size of `bytes`.
    check(unsafe { ioctl_with_mut_ref(vcpu, KVM_GET_SREGS2(), &mut bytes) })?;
    Ok(bytes)
}

/// `KVM_SET_SREGS2` from bytes.
pub(super) fn set_sregs2(vcpu: &VcpuFd, bytes: &[u8; SREGS2_LEN]) -> errno::Result<()> {
    // SAFETY: the kernel reads one `struct kvm_sregs2`, which is the size of `bytes`.
    check(unsafe { ioctl_with_ref(vcpu, KVM_SET_SREGS2(), bytes) })
}

/// The size of the XSAVE area of a VM's vCPUs, as reported by this kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XsaveLen(usize);

impl XsaveLen {
    pub(super) fn of(vm: &VmFd) -> Self {
        let len = vm.check_extension_int(kvm_ioctls::Cap::Xsave2);
        Self(
            usize::try_from(len)
                .unwrap_or(0)
                .max(size_of::<kvm_xsave>()),
        )
    }

    /// An empty area of this size.
    fn area(self) -> errno::Result<Xsave> {
        let words = (self.0 - size_of::<kvm_xsave>()).div_ceil(size_of::<u32>());
        Xsave::new(words).map_err(|_| errno::Error::new(libc::ENOMEM))
    }
}

/// `KVM_GET_XSAVE2` as bytes.
pub(super) fn get_xsave(vcpu: &VcpuFd, len: XsaveLen) -> errno::Result<Vec<u8>> {
    let mut xsave = len.area()?;
    // SAFETY: the kernel writes KVM_CAP_XSAVE2 bytes, or 4096 if that is more, which is how an
    // `XsaveLen` is computed and so the size of `xsave`.
    unsafe { vcpu.get_xsave2(&mut xsave) }?;
    let legacy = &xsave.as_fam_struct_ref().xsave.region;
    Ok([legacy.as_bytes(), xsave.as_slice().as_bytes()].concat())
}

/// `KVM_SET_XSAVE` from bytes; what the saved area lacks is zeroed, and it must have nothing that
/// this KVM lacks.
pub(super) fn set_xsave(vcpu: &VcpuFd, saved: &[u8], len: XsaveLen) -> errno::Result<()> {
    let malformed = errno::Error::new(libc::EINVAL);
    let mut xsave = len.area()?;
    let (legacy, extended) = saved
        .split_at_checked(size_of::<kvm_xsave>())
        .ok_or(malformed)?;
    // SAFETY: the length is not changed.
    let area = unsafe { xsave.as_mut_fam_struct() };
    area.xsave.region.as_mut_bytes().copy_from_slice(legacy);
    let room = xsave.as_mut_slice().as_mut_bytes();
    let (known, unknown) = extended.split_at(extended.len().min(room.len()));
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(malformed);
    }
    room[..known.len()].copy_from_slice(known);
    // SAFETY: the kernel reads KVM_CAP_XSAVE2 bytes, or 4096 if that is more, which is how an
    // `XsaveLen` is computed and so the size of `xsave`.
    unsafe { vcpu.set_xsave2(&xsave) }
}

/// Whether KVM supports nested virtualisation.
pub(super) fn has_nested(kvm: &Kvm) -> bool {
    kvm.check_extension(kvm_ioctls::Cap::NestedState)
}

/// `KVM_GET_NESTED_STATE` as bytes, of variable length.
pub(super) fn get_nested(vcpu: &VcpuFd) -> errno::Result<Vec<u8>> {
    let mut state = KvmNestedStateBuffer::empty();
    vcpu.nested_state(&mut state)?;
    let len = state.size as usize;
    let bytes = state.as_bytes().get(..len);
    Ok(bytes.ok_or(errno::Error::new(libc::E2BIG))?.to_vec())
}

/// `KVM_SET_NESTED_STATE` from bytes.
pub(super) fn set_nested(vcpu: &VcpuFd, bytes: &[u8]) -> errno::Result<()> {
    let malformed = errno::Error::new(libc::EINVAL);
    let mut state = KvmNestedStateBuffer::empty();
    let room = state.as_mut_bytes().get_mut(..bytes.len());
    room.ok_or(malformed)?.copy_from_slice(bytes);
    if bytes.len() < size_of::<kvm_nested_state>() || state.size as usize != bytes.len() {
        return Err(malformed);
    }
    vcpu.set_nested_state(&state)
}

/// The kind of internal error that `KVM_RUN` has just returned (`KVM_INTERNAL_ERROR_*`).
pub(crate) fn internal_error(vcpu: &mut VcpuFd) -> u32 {
    // SAFETY: after an exit KVM_EXIT_INTERNAL_ERROR KVM has written this field; after any other
    // exit it is a meaningless number, but any bit pattern is valid.
    unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror }
}

fn tsc_offset_attr(value: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: value as u64,
        flags: 0,
    }
}

/// The offset of the guest's TSC from the host's.
pub(super) fn get_tsc_offset(vcpu: &VcpuFd) -> errno::Result<u64> {
    let mut offset = 0u64;
    let attr = tsc_offset_attr(&mut offset);
    // SAFETY: the kernel writes the eight bytes at `addr`, which belong to `offset`.
    check(unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attr) })?;
    Ok(offset)
}

/// Sets the offset of the guest's TSC from the host's.
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, mut offset: u64) -> errno::Result<()> {
    let attr = tsc_offset_attr(&mut offset);
    // SAFETY: the kernel reads the eight bytes at `addr`, which belong to `offset`.
    check(unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attr) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The opcodes of include/uapi/linux/kvm.h, computed by hand from their macros.
    #[test]
    fn opcodes_are_the_documented_ones() {
        assert_eq!(KVM_SET_TSC_KHZ(), 0xaea2);
        assert_eq!(KVM_GET_SREGS2(), 0x8140_aecc);
        assert_eq!(KVM_SET_SREGS2(), 0x4140_aecd);
        assert_eq!(KVM_PRE_FAULT_MEMORY(), 0xc040_aed5);
        assert_eq!(KVM_SET_DEVICE_ATTR(), 0x4018_aee1);
        assert_eq!(KVM_GET_DEVICE_ATTR(), 0x4018_aee2);
    }
}
