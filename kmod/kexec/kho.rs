// SPDX-License-Identifier: GPL-2.0

//! Kexec handover: safe wrappers over `kho.c`.

use crate::abi::{
    self,
    Extent, //
};
use crate::ffi;
use crate::kexec::poison;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Whether this kernel hands memory over at its next kexec (`kho=on`).
pub(crate) fn enabled() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_kho_enabled() }
}

/// Whether this kernel was started by a kexec with handover.
pub(crate) fn booted() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_kho_boot() }
}

/// Whether this kernel knows what the loaded kernel takes over, and can refuse a kexec.
pub(crate) fn can_refuse() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_kho_can_refuse() }
}

/// As long as this exists, a kernel that can refuses a kexec to a kernel that would get no handover.
pub(crate) struct Required(());

impl Required {
    /// Fails with `EOPNOTSUPP` if a kexec to such a kernel has begun.
    pub(crate) fn new() -> Result<Required> {
        // SAFETY: No precondition.
        to_result(unsafe { ffi::fdbox_shim_kho_require() }).map(|()| Required(()))
    }
}

impl Drop for Required {
    fn drop(&mut self) {
        // SAFETY: Required in `new()`.
        unsafe { ffi::fdbox_shim_kho_unrequire() };
    }
}

/// The checksum of the handover ABI.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    // SAFETY: `bytes` is valid for reading its length.
    unsafe { ffi::fdbox_shim_crc32(bytes.as_ptr(), bytes.len()) }
}

/// Release string of this kernel, NUL-padded.
pub(crate) fn release() -> [u8; abi::PRODUCER_LEN] {
    let mut out = [0; abi::PRODUCER_LEN];
    // SAFETY: `out` is valid for writing its length.
    unsafe { ffi::fdbox_shim_release(out.as_mut_ptr(), out.len()) };
    out
}

/// Registers `extents` with KHO: all or none.
pub(crate) fn preserve(extents: &[u64]) -> Result {
    for (done, &raw) in extents.iter().enumerate() {
        let result = decode(raw).and_then(|extent| {
            // SAFETY: An extent of a record has folios that a pinned file or a driver keeps in
            // place, or that `check_kept()` has found to be the last kernel's.
            to_result(unsafe {
                ffi::fdbox_shim_kho_preserve(extent.lowest_pfn(), extent.folios, extent.order)
            })
        });
        if result.is_err() {
            unpreserve(&extents[..done]);
            return result;
        }
    }
    Ok(())
}

/// The inverse of [`preserve`].
pub(crate) fn unpreserve(extents: &[u64]) {
    for &raw in extents {
        if let Ok(extent) = decode(raw) {
            // SAFETY: Registered by `preserve()` with the same numbers.
            unsafe {
                ffi::fdbox_shim_kho_unpreserve(extent.lowest_pfn(), extent.folios, extent.order)
            };
        }
    }
}

/// Fails with `EIO` unless KHO has preserved all of `extents` from the last kernel. Checks blocks,
/// not pages.
pub(crate) fn check_kept(extents: &[u64]) -> Result {
    for &raw in extents {
        let extent = decode(raw)?;
        // SAFETY: No precondition: pages that do not exist are not preserved.
        let kept =
            unsafe { ffi::fdbox_shim_kho_kept(extent.lowest_pfn(), extent.folios, extent.order) };
        if !kept {
            return Err(EIO);
        }
    }
    Ok(())
}

/// Takes over all folios of `extents` from the last kernel, or none; each then has one reference.
/// Fails with `EIO` if KHO has not preserved them or they were already taken over, with `EHWPOISON`
/// if a page is poisoned and this kernel cannot mark it.
pub(crate) fn restore(extents: &[u64]) -> Result {
    check_kept(extents)?;
    for &raw in extents {
        poison::check(&decode(raw)?)?;
    }
    for &raw in extents {
        let extent = decode(raw)?;
        // That they were preserved for this record, and not for another user of KHO, is known only
        // from the record: its checksum was correct, and the kernel that wrote it is trusted. See
        // docs/handover-abi.md.
        //
        // SAFETY: KHO has every one of the folios, in blocks of this order, and nobody has taken
        // them, as was checked above: they are not part of this kernel's memory yet. The box is
        // locked.
        let restored =
            unsafe { ffi::fdbox_shim_kho_restore(extent.pfn, extent.folios, extent.order) };
        if !restored {
            return Err(EIO);
        }
        // SAFETY: They are restored.
        unsafe { poison::mark(&extent) };
    }
    Ok(())
}

/// Preserves memory of the last kernel for the next one, in the same blocks; fails with `EIO` if
/// `extents` were not kept. Used for a handover that this kernel cannot read. There is no inverse: the
/// kernel is about to end.
pub(crate) fn pass_on(extents: &[u64]) -> Result {
    for &raw in extents {
        let extent = decode(raw)?;
        // SAFETY: The function checks each block before it passes it on, as `check_kept()` does.
        to_result(unsafe {
            ffi::fdbox_shim_kho_pass_on(extent.lowest_pfn(), extent.folios, extent.order)
        })?;
    }
    Ok(())
}

/// Decodes an extent of a record.
#[inline]
pub(crate) fn decode(raw: u64) -> Result<Extent> {
    Extent::decode(raw).map_err(|_| EIO)
}
