// SPDX-License-Identifier: GPL-2.0

//! Kernel objects behind the files that FDBox supports: a safe type for each, over the functions of
//! the shim. The kinds use them.

pub(crate) mod folios;
pub(crate) mod guest_memfd;
pub(crate) mod iommufd;
pub(crate) mod lent;
pub(crate) mod memfd;
pub(crate) mod vfio_pci;
pub(crate) mod vm;
