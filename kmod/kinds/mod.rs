// SPDX-License-Identifier: GPL-2.0

//! The built-in kinds of files, and the adapter for those of drivers.

pub(crate) mod driver;
mod driver_api;
pub(crate) mod guest_memfd;
pub(crate) mod iommufd;
pub(crate) mod kvm_vm;
pub(crate) mod memfd;
pub(crate) mod vfio_pci;

use crate::ffi;

/// What [`crate::kind::Kind::supported`] says for a kind that lacks `what` of the kernel.
fn lacks(what: ffi::Lacks, module: &'static str, patch: &'static str) -> Result<(), &'static str> {
    match what {
        ffi::LACKS_NOTHING => Ok(()),
        ffi::LACKS_MODULE => Err(module),
        ffi::LACKS_PATCH.. => Err(patch),
    }
}
