// SPDX-License-Identifier: GPL-2.0

//! Kernel objects behind the files that FDBox knows: one safe type for each, over the functions of the
//! shim. The kinds say what to do with them.

pub(crate) mod folios;
pub(crate) mod guest_memfd;
pub(crate) mod iommufd;
pub(crate) mod memfd;
pub(crate) mod vfio_pci;
pub(crate) mod vm;
