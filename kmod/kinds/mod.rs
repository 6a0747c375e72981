// SPDX-License-Identifier: GPL-2.0

//! The kinds of files that FDBox knows by itself, and the adapter for those of drivers.

pub(crate) mod driver;
pub(crate) mod guest_memfd;
pub(crate) mod iommufd;
pub(crate) mod kvm_vm;
pub(crate) mod memfd;
pub(crate) mod vfio_pci;

use kernel::prelude::*;

/// A number of a saved record, which [`take_u64`] reads again.
pub(crate) fn take_u64(data: &mut &[u8]) -> Result<u64> {
    let (number, rest) = data.split_first_chunk::<8>().ok_or(EIO)?;
    *data = rest;
    Ok(u64::from_le_bytes(*number))
}

/// As [`take_u64`], for 32 bits.
pub(crate) fn take_u32(data: &mut &[u8]) -> Result<u32> {
    let (number, rest) = data.split_first_chunk::<4>().ok_or(EIO)?;
    *data = rest;
    Ok(u32::from_le_bytes(*number))
}
