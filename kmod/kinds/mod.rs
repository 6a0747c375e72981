// SPDX-License-Identifier: GPL-2.0

//! The built-in kinds of files, and the adapter for those of drivers.

pub(crate) mod driver;
mod driver_api;
pub(crate) mod guest_memfd;
pub(crate) mod hugetlb;
pub(crate) mod iommufd;
pub(crate) mod kvm_vm;
pub(crate) mod lent;
pub(crate) mod memfd;
pub(crate) mod vfio_pci;

use crate::ffi;

/// The result of [`crate::kind::Kind::supported`] for a kind if the kernel lacks `what`.
fn lacks(what: ffi::Lacks, module: &'static str, patch: &'static str) -> Result<(), &'static str> {
    match what {
        ffi::LACKS_NOTHING => Ok(()),
        ffi::LACKS_MODULE => Err(module),
        ffi::LACKS_PATCH.. => Err(patch),
    }
}
