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

/// Bytes of `struct vfio_irq_set` without its data.
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

/// Bytes of a structure, as it says them itself.
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Where a region is in the device's file, how long it is, and whether it can be mapped.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> Result<vfio_region_info> {
    let mut info = vfio_region_info {
        argsz: size::<vfio_region_info>(),
        index,
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `argsz` bytes, which is what `info` has.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_REGION_INFO(), &mut info) })?;
    Ok(info)
}

/// How many interrupts of a kind the device has.
pub(super) fn irq_count(device: BorrowedFd<'_>, index: u32) -> Result<u32> {
    let mut info = vfio_irq_info {
        argsz: size::<vfio_irq_info>(),
        index,
        ..Default::default()
    };
    // SAFETY: the kernel writes at most `argsz` bytes, which is what `info` has.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) })?;
    Ok(info.count)
}

/// Has each interrupt of a kind write to an event, and switches the kind on. Events that it
/// had before are replaced.
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

/// Switches a kind of interrupts off.
pub(super) fn clear_triggers(device: BorrowedFd<'_>, index: u32) -> Result<()> {
    set_irqs(device, VFIO_IRQ_SET_DATA_NONE, index, &[])
}

fn set_irqs(device: BorrowedFd<'_>, data_kind: u32, index: u32, data: &[u32]) -> Result<()> {
    let len = (IRQ_SET_LEN + size_of_val(data)) as u32;
    let flags = data_kind | VFIO_IRQ_SET_ACTION_TRIGGER;
    // A `struct vfio_irq_set` with its data: numbers of four bytes throughout.
    let mut set = vec![len, flags, index, 0, data.len() as u32];
    set.extend(data);
    // SAFETY: the kernel reads at most as many bytes as the first number says, which is what
    // `set` has; it writes nothing.
    check(unsafe { ioctl_with_ptr(&device, VFIO_DEVICE_SET_IRQS(), set.as_ptr()) })
}

/// The descriptor of an event.
pub(super) fn event_fd(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor stays open for as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Resets the device, as far as it can be reset alone.
pub(super) fn reset(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: VFIO_DEVICE_RESET takes no argument.
    check(unsafe { ioctl(&device, VFIO_DEVICE_RESET()) })
}

/// Opens the device proper, for an iommufd; returns its number there.
pub(super) fn bind(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<u32> {
    let mut bind = vfio_device_bind_iommufd {
        argsz: size::<vfio_device_bind_iommufd>(),
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: the kernel reads and writes at most `argsz` bytes, which is what `bind` has; no
    // token is passed, so it follows no pointer.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_BIND_IOMMUFD(), &mut bind) })?;
    Ok(bind.out_devid)
}

/// Has the device's addresses translated by a page table.
pub(super) fn attach(device: BorrowedFd<'_>, hwpt_id: u32) -> Result<()> {
    let mut attach = vfio_device_attach_iommufd_pt {
        argsz: size::<vfio_device_attach_iommufd_pt>(),
        pt_id: hwpt_id,
        ..Default::default()
    };
    // SAFETY: the kernel reads and writes at most `argsz` bytes, which is what `attach` has.
    check(unsafe { ioctl_with_mut_ref(&device, VFIO_DEVICE_ATTACH_IOMMUFD_PT(), &mut attach) })
}

/// Has pinned memory counted as this process's from now on.
pub(super) fn change_process(iommufd: BorrowedFd<'_>) -> Result<()> {
    let mut change = iommu_ioas_change_process {
        size: size::<iommu_ioas_change_process>(),
        ..Default::default()
    };
    // SAFETY: the kernel reads at most `size` bytes, which is what `change` has.
    check(unsafe { ioctl_with_mut_ref(&iommufd, IOMMU_IOAS_CHANGE_PROCESS(), &mut change) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of include/uapi/linux/vfio.h and iommufd.h, computed by hand from its macros.
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
