// SPDX-License-Identifier: GPL-2.0

//! A PCI function driven by vfio-pci: by an open file of it, or by its address.

use super::iommufd::Iommufd;
use crate::ffi::{
    self,
    VfioBinding, //
};
use crate::file::{
    self,
    FileRef, //
};
use kernel::{
    error::to_result,
    fs::File,
    prelude::*, //
};

/// An open VFIO PCI device.
///
/// # Invariants
///
/// The file is one of vfio-pci.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a>(&'a File);

impl<'a> Device<'a> {
    /// The device behind `file`, if it is one.
    pub(crate) fn of(file: &'a File) -> Option<Device<'a>> {
        // SAFETY: `file` is a live file.
        let is = unsafe { ffi::fdbox_shim_is_vfio_pci(file.as_ptr()) };
        // INVARIANT: It is.
        is.then_some(Device(file))
    }

    /// The iommufd that it is bound to.
    pub(crate) fn iommufd(self) -> Option<Iommufd<'a>> {
        // SAFETY: By the type invariants.
        let ctx = unsafe { ffi::fdbox_shim_vfio_iommufd(self.0.as_ptr()) };
        // SAFETY: The device holds its iommufd, and the file the device.
        (!ctx.is_null()).then(|| unsafe { Iommufd::from_raw(ctx) })
    }

    /// Its address, and what it is attached to.
    pub(crate) fn binding(self) -> Result<VfioBinding> {
        let mut binding = VfioBinding::default();
        // SAFETY: By the type invariants; `binding` is valid for writing.
        to_result(unsafe { ffi::fdbox_shim_vfio_where(self.0.as_ptr(), &mut binding) })?;
        Ok(binding)
    }

    /// Where its registers are.
    pub(crate) fn registers(self) -> ffi::Registers {
        let mut registers = ffi::Registers::default();
        // SAFETY: By the type invariants; `registers` is valid for writing.
        unsafe { ffi::fdbox_shim_vfio_registers(self.0.as_ptr(), &mut registers) };
        registers
    }
}

/// Calls `see` with the address of each table that translates for the device.
pub(crate) fn tables(binding: &VfioBinding, mut see: impl FnMut(u64) -> Result) -> Result {
    let mut see: &mut dyn FnMut(u64) -> Result = &mut see;
    let data = core::ptr::from_mut(&mut see).cast();
    // SAFETY: The device is looked up; `see_table()` gets `see`, which outlives the call.
    to_result(unsafe {
        ffi::fdbox_shim_vfio_tables(binding.segment, binding.bdf, Some(see_table), data)
    })
}

/// # Safety
///
/// `data` was created by [`tables`], which has not returned yet.
unsafe extern "C" fn see_table(table: u64, data: *mut c_void) -> c_int {
    // SAFETY: By the safety requirements of this function; nobody else borrows it during the visit.
    let see = unsafe { &mut *data.cast::<&mut dyn FnMut(u64) -> Result>() };
    match see(table) {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}

/// What this kernel lacks to hand devices over.
pub(crate) fn lacks() -> ffi::Lacks {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_vfio_lacks() }
}

/// Lets the device continue its DMA in the next kernel.
pub(crate) fn keep(binding: &VfioBinding) -> Result {
    // SAFETY: No precondition: the device is looked up.
    to_result(unsafe { ffi::fdbox_shim_vfio_keep(binding.segment, binding.bdf) })
}

/// Whether the device is as it came from the last kernel, with ongoing DMA.
pub(crate) fn waits(binding: &VfioBinding) -> bool {
    // SAFETY: No precondition: the device is looked up.
    unsafe { ffi::fdbox_shim_vfio_waits(binding.segment, binding.bdf) }
}

/// The inverse of [`keep`].
pub(crate) fn unkeep(binding: &VfioBinding) {
    // SAFETY: No precondition: the device is looked up.
    unsafe { ffi::fdbox_shim_vfio_unkeep(binding.segment, binding.bdf) };
}

/// Opens a device with ongoing DMA from the last kernel, bound and attached to `iommufd`.
pub(crate) fn adopt(iommufd: Iommufd<'_>, binding: &VfioBinding) -> Result<FileRef> {
    // SAFETY: The iommufd is held, by its type invariants; the result is a file that we own, or an
    // error.
    unsafe { file::from_c(ffi::fdbox_shim_vfio_adopt(iommufd.as_ptr(), binding)) }
}

/// Stops a device that is not taken over.
pub(crate) fn stop(binding: &VfioBinding) {
    // SAFETY: No precondition: the device is looked up.
    unsafe { ffi::fdbox_shim_vfio_stop(binding.segment, binding.bdf) };
}
