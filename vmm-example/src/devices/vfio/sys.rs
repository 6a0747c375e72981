//! The ioctls of VFIO devices, and the one of iommufd that iommufd-ioctls lacks, behind safe functions.
//!
//! include/uapi/linux/vfio.h and include/uapi/linux/iommufd.h. All take a pointer to a structure
//! that begins with its size.

#![allow(
    unsafe_code,
    reason = "this file is the thin layer around the ioctls of VFIO and iommufd"
)]

use std::os::fd::{AsRawFd, BorrowedFd};

use iommufd_bindings::iommufd::{IOMMUFD_CMD_IOAS_CHANGE_PROCESS, iommu_ioas_change_process};
use rustix::io::{Errno, Result};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_TYPE as VFIO_TYPE_BYTE, vfio_device_attach_iommufd_pt, vfio_device_bind_iommufd,
    vfio_irq_info, vfio_region_info,
};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ptr};
use vmm_sys_util::ioctl_io_nr;

/// The type of all ioctls here.
const VFIO_TYPE: u32 = VFIO_TYPE_BYTE as u32;

ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, VFIO_TYPE, VFIO_BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, VFIO_TYPE, VFIO_BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE, VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, VFIO_TYPE, VFIO_BASE + 11);
ioctl_io_nr!(VFIO_DEVICE_BIND_IOMMUFD, VFIO_TYPE, VFIO_BASE + 18);
ioctl_io_nr!(VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_TYPE, VFIO_BASE + 19);
ioctl_io_nr!(
    IOMMU_IOAS_CHANGE_PROCESS,
    VFIO_TYPE,
    IOMMUFD_CMD_IOAS_CHANGE_PROCESS
);

/// The size of `struct vfio_irq_set` without its data, in bytes.
const IRQ_SET_LEN: usize = 20;

/// Turns an ioctl's return value into a result.
fn check(ret: i32) -> Result<()> {
    if ret < 0 {
        let errno = vmm_sys_util::errno::Error::last().errno();
        Err(Errno::from_raw_os_error(errno))
    } else {
        Ok(())
    }
}

/// The size of a structure, as stored in it.
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// The location of a region in the device's file, its length, and whether it can be mapped.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> Result<vfio_region_info> {
    let mut info = vfio_region_info {
        argsz: size::<vfio_region_info>(),
        index,
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `argsz` bytes, which is the size of `info`.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_REGION_INFO(), &mut info) })?;
    Ok(info)
}

/// The number of the device's interrupts of a kind.
pub(super) fn irq_count(device: BorrowedFd<'_>, index: u32) -> Result<u32> {
    let mut info = vfio_irq_info {
        argsz: size::<vfio_irq_info>(),
        index,
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `argsz` bytes, which is the size of `info`.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) })?;
    Ok(info.count)
}

/// Connects each interrupt of a kind to an event, and enables the kind. Replaces previous events.
pub(super) fn set_triggers(
    device: BorrowedFd<'_>,
    index: u32,
    events: &[BorrowedFd<'_>],
) -> Result<()> {
    let data: Vec<u32> = events
        .iter()
        .map(|event| event.as_raw_fd().cast_unsigned())
        .collect();
    set_irqs(device, VFIO_IRQ_SET_DATA_EVENTFD, index, &data)
}

/// Disables a kind of interrupts.
pub(super) fn clear_triggers(device: BorrowedFd<'_>, index: u32) -> Result<()> {
    set_irqs(device, VFIO_IRQ_SET_DATA_NONE, index, &[])
}

fn set_irqs(device: BorrowedFd<'_>, data_kind: u32, index: u32, data: &[u32]) -> Result<()> {
    let len = (IRQ_SET_LEN + size_of_val(data)) as u32;
    let flags = data_kind | VFIO_IRQ_SET_ACTION_TRIGGER;
    // A `struct vfio_irq_set` with its data, all in 32-bit words.
    let mut set = vec![len, flags, index, 0, data.len() as u32];
    set.extend(data);
    // SAFETY: the kernel reads at most as many bytes as the first word says, which is the size of
    // `set`; it writes nothing.
    check(unsafe { ioctl_with_ptr(&device, VFIO_DEVICE_SET_IRQS(), set.as_ptr()) })
}

/// The descriptor of an event.
pub(super) fn event_fd(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor stays open for as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Resets the device, as far as it can be reset on its own.
pub(super) fn reset(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: VFIO_DEVICE_RESET takes no argument.
    check(unsafe { ioctl(&device, VFIO_DEVICE_RESET()) })
}

/// Opens the device proper, for an iommufd; returns its id there.
pub(super) fn bind(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<u32> {
    let mut bind = vfio_device_bind_iommufd {
        argsz: size::<vfio_device_bind_iommufd>(),
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: the kernel reads and writes at most `argsz` bytes, which is the size of `bind`; no
    // token is passed, so it follows no pointer.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_BIND_IOMMUFD(), &mut bind) })?;
    Ok(bind.out_devid)
}

/// Attaches the device to a page table.
pub(super) fn attach(device: BorrowedFd<'_>, hwpt_id: u32) -> Result<()> {
    let mut attach = vfio_device_attach_iommufd_pt {
        argsz: size::<vfio_device_attach_iommufd_pt>(),
        pt_id: hwpt_id,
        ..Default::default()
    };
    // SAFETY: the kernel reads and writes at most `argsz` bytes, which is the size of `attach`.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_ATTACH_IOMMUFD_PT(), &mut attach) })
}

/// Accounts pinned memory to this process from now on.
pub(super) fn change_process(iommufd: BorrowedFd<'_>) -> Result<()> {
    let mut change = iommu_ioas_change_process {
        size: size::<iommu_ioas_change_process>(),
        ..Default::default()
    };
    // SAFETY: the kernel reads at most `size` bytes, which is the size of `change`.
    check(unsafe { ioctl_with_mut_ref(&iommufd, IOMMU_IOAS_CHANGE_PROCESS(), &mut change) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The opcodes of include/uapi/linux/vfio.h and iommufd.h, computed by hand from their macros.
    #[test]
    fn opcodes_are_the_documented_ones() {
        assert_eq!(VFIO_DEVICE_GET_REGION_INFO(), 0x3b6c);
        assert_eq!(VFIO_DEVICE_GET_IRQ_INFO(), 0x3b6d);
        assert_eq!(VFIO_DEVICE_SET_IRQS(), 0x3b6e);
        assert_eq!(VFIO_DEVICE_RESET(), 0x3b6f);
        assert_eq!(VFIO_DEVICE_BIND_IOMMUFD(), 0x3b76);
        assert_eq!(VFIO_DEVICE_ATTACH_IOMMUFD_PT(), 0x3b77);
        assert_eq!(IOMMU_IOAS_CHANGE_PROCESS(), 0x3b92);
    }

    #[test]
    fn an_irq_set_is_numbers_of_four_bytes() {
        let data = std::mem::offset_of!(vfio_bindings::bindings::vfio::vfio_irq_set, data);
        assert_eq!(data, IRQ_SET_LEN);
    }
}
