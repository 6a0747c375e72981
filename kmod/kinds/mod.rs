// SPDX-License-Identifier: GPL-2.0

//! The kinds of files that FDBox knows by itself, and the adapter for those of drivers.

pub(crate) mod driver;
pub(crate) mod guest_memfd;
pub(crate) mod iommufd;
pub(crate) mod kvm_vm;
pub(crate) mod memfd;
pub(crate) mod vfio_pci;
