// SPDX-License-Identifier: GPL-2.0

//! Kexec handover: safe wrappers over `kho.c`.

use crate::abi::{
    self,
    Extent, //
};
use crate::ffi;
use crate::poison;
use kernel::{
    error::to_result,
    prelude::*,
    str::CStrExt, //
};

/// Whether this kernel hands memory over at its next kexec.
pub(crate) fn enabled() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_kho_enabled() }
}

/// Whether this kernel was started by a kexec with handover.
pub(crate) fn booted() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_kho_boot() }
}

/// Whether this kernel knows, and cares, what the next one takes over.
pub(crate) fn can_refuse() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::fdbox_shim_kho_can_refuse() }
}

/// As long as it lives, a kernel that can refuses a kexec to one that is told of no handover.
pub(crate) struct Required(());

impl Required {
    /// `EOPNOTSUPP` when the host is on its way into such a kernel already.
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
            // SAFETY: An extent of a record names folios that a pinned file or a driver keeps where
            // they are, or that `check_kept()` has seen to be the last kernel's.
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

/// `EIO` unless KHO keeps all of `extents` from the last kernel. Looks at blocks, not at pages.
pub(crate) fn check_kept(extents: &[u64]) -> Result {
    for &raw in extents {
        let extent = decode(raw)?;
        // SAFETY: No precondition: pages that do not exist are not kept.
        let kept =
            unsafe { ffi::fdbox_shim_kho_kept(extent.lowest_pfn(), extent.folios, extent.order) };
        if !kept {
            return Err(EIO);
        }
    }
    Ok(())
}

/// Takes the folios of `extents`, sorted by address, over from the last kernel, all or none; each then
/// has one reference. `EIO` when KHO does not keep them for us, or somebody has taken them already;
/// `EHWPOISON` when one is broken and this kernel cannot mark it.
pub(crate) fn restore(extents: &[u64]) -> Result {
    check_kept(extents)?;
    for &raw in extents {
        poison::check(&decode(raw)?)?;
    }
    for &raw in extents {
        let extent = decode(raw)?;
        // That they were kept for this record, not for somebody else, is what the record says: its
        // checksum was right, and the kernel that wrote it is trusted. See docs/handover-abi.md.
        //
        // SAFETY: KHO keeps every one of the folios, in blocks of this order, and nobody has taken
        // them, as was seen above: they are no part of this kernel's memory yet. The box is locked.
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

/// Has the next kernel keep what the last one kept, in the blocks that it made; `EIO` when it did
/// not keep `extents`. For a handover that this kernel does not understand: which of its memory
/// belongs together, only the one who takes it knows. Not undone: for a kernel about to end.
pub(crate) fn pass_on(extents: &[u64]) -> Result {
    for &raw in extents {
        let extent = decode(raw)?;
        // SAFETY: The function looks at each block before it hands it on, as `check_kept()` does.
        to_result(unsafe {
            ffi::fdbox_shim_kho_pass_on(extent.lowest_pfn(), extent.folios, extent.order)
        })?;
    }
    Ok(())
}

/// How many folios of `extent`, from the first on, are of one node.
///
/// # Safety
///
/// The folios belong to the caller.
pub(crate) unsafe fn on_one_node(extent: &Extent) -> u64 {
    let (pfn, folios, order) = (extent.pfn, extent.folios, extent.order);
    // SAFETY: The caller has them, so they are memory of this kernel.
    unsafe { ffi::fdbox_shim_on_one_node(pfn, folios, order, extent.down) }
}

/// References to folios that were given to a file, held for whoever does DMA to them meanwhile: a
/// folio with a reference that nobody accounts for is neither moved nor reclaimed.
#[derive(Default)]
pub(crate) struct Held(KVVec<u64>);

impl Held {
    /// Takes a reference of each folio of `extent`.
    ///
    /// # Safety
    ///
    /// The caller has one of each.
    pub(crate) unsafe fn hold(&mut self, extent: &Extent) -> Result {
        self.0.push(extent.encode(), GFP_KERNEL)?;
        // SAFETY: As promised by the caller.
        unsafe { ffi::fdbox_shim_get_folios(extent.lowest_pfn(), extent.folios, extent.order) };
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for extent in self.0.iter().filter_map(|&raw| decode(raw).ok()) {
            // SAFETY: Taken in `hold()`.
            unsafe { put_folios(&extent) };
        }
    }
}

/// Drops one reference of each folio of `extent`.
///
/// # Safety
///
/// The references belong to the caller.
pub(crate) unsafe fn put_folios(extent: &Extent) {
    // SAFETY: As promised by the caller.
    unsafe { ffi::fdbox_shim_put_folios(extent.lowest_pfn(), extent.folios, extent.order) };
}

/// An extent of a record, which was checked when it got there.
pub(crate) fn decode(raw: u64) -> Result<Extent> {
    Extent::decode(raw).map_err(|_| EIO)
}

/// A stretch of vmalloc memory.
///
/// # Invariants
///
/// `ptr` is valid for reading and writing `len` bytes and belongs to this object.
pub(crate) struct Body {
    ptr: core::ptr::NonNull<u8>,
    len: usize,
}

// SAFETY: `Body` owns plain memory.
unsafe impl Send for Body {}

impl Body {
    /// `len` uninitialised bytes; the caller fills all of them.
    fn new(len: usize) -> Result<Body> {
        // SAFETY: No precondition; `len` is not 0, a body has at least one box.
        let ptr = unsafe { ffi::fdbox_shim_vmalloc(len) };
        let ptr = core::ptr::NonNull::new(ptr.cast::<u8>()).ok_or(ENOMEM)?;
        // SAFETY: `vmalloc()` returned `len` bytes.
        unsafe { ptr.as_ptr().write_bytes(0, len) };
        // INVARIANT: Fresh memory of `len` bytes.
        Ok(Body { ptr, len })
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: By the type invariants.
        unsafe { core::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: By the type invariants, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the memory is ours, and vmalloc's.
        unsafe { ffi::fdbox_shim_vfree(self.ptr.as_ptr().cast()) };
    }
}

/// Writes into a [`Body`], front to back.
pub(crate) struct Filler<'a> {
    rest: &'a mut [u8],
}

impl abi::Sink for Filler<'_> {
    type Error = Error;

    fn put(&mut self, bytes: &[u8]) -> Result {
        let rest = core::mem::take(&mut self.rest);
        if bytes.len() > rest.len() {
            return Err(EOVERFLOW);
        }
        let (here, rest) = rest.split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        self.rest = rest;
        Ok(())
    }
}

/// A blob that the next kernel will find, once it is published.
///
/// # Invariants
///
/// `root` is a preserved page; `descriptor` is that of `body`, which is preserved.
pub(crate) struct Blob {
    root: core::ptr::NonNull<c_void>,
    descriptor: [u8; 16],
    body: Body,
    published: bool,
}

// SAFETY: `Blob` owns its pages.
unsafe impl Send for Blob {}

impl Blob {
    /// Makes a body of `len` bytes with `fill`, and its root from what `root` returns.
    pub(crate) fn new(
        len: usize,
        fill: impl FnOnce(&mut Filler<'_>) -> Result,
        root: impl FnOnce(&[u8]) -> abi::Root,
    ) -> Result<Blob> {
        let mut body = Body::new(len)?;
        fill(&mut Filler {
            rest: body.bytes_mut(),
        })?;
        let root = root(body.bytes());
        Self::from_body(body, root)
    }

    /// Hands on `body` under `root`, whose place of the body is filled in.
    pub(crate) fn from_body(body: Body, mut root: abi::Root) -> Result<Blob> {
        // SAFETY: No precondition.
        let page = unsafe { ffi::fdbox_shim_kho_alloc_root() };
        let page = core::ptr::NonNull::new(page).ok_or(ENOMEM)?;

        let mut descriptor = [0; 16];
        // SAFETY: `body` is a vmalloc area, `descriptor` has the 16 bytes that are written.
        let result = to_result(unsafe {
            ffi::fdbox_shim_kho_preserve_body(body.ptr.as_ptr().cast(), descriptor.as_mut_ptr())
        });
        if let Err(err) = result {
            // SAFETY: Allocated above, not published.
            unsafe { ffi::fdbox_shim_kho_free_root(page.as_ptr()) };
            return Err(err);
        }

        root.body_vmalloc = descriptor;
        let bytes = root.encode(crc32);
        // SAFETY: The root is a page, and nobody else knows it yet.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), page.as_ptr().cast::<u8>(), bytes.len())
        };
        // INVARIANT: Both were preserved above.
        Ok(Blob {
            root: page,
            descriptor,
            body,
            published: false,
        })
    }

    /// Bytes it takes, page tables of the body aside.
    pub(crate) fn len(&self) -> usize {
        abi::ROOT_LEN + self.body.len
    }

    /// Lets the next kernel find it, if it does not yet.
    pub(crate) fn publish(&mut self) -> Result {
        if self.published {
            return Ok(());
        }
        // SAFETY: By the type invariants the root is a preserved page.
        to_result(unsafe {
            ffi::fdbox_shim_kho_publish(
                abi::SUBTREE.as_char_ptr(),
                self.root.as_ptr(),
                abi::ROOT_LEN,
            )
        })?;
        self.published = true;
        Ok(())
    }

    /// The inverse of [`Blob::publish`].
    pub(crate) fn withdraw(&mut self) {
        if self.published {
            // SAFETY: Published under this address.
            unsafe { ffi::fdbox_shim_kho_withdraw(self.root.as_ptr()) };
            self.published = false;
        }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        self.withdraw();
        // SAFETY: By the type invariants both are preserved, and the next kernel no longer knows
        // the root. The body itself is freed after this.
        unsafe {
            ffi::fdbox_shim_kho_unpreserve_body(self.descriptor.as_ptr());
            ffi::fdbox_shim_kho_free_root(self.root.as_ptr());
        }
    }
}

/// What the last kernel left, unless it has been taken: its root, checked, and the body that goes
/// with it.
pub(crate) fn incoming() -> Option<Result<(abi::Root, Body), abi::Malformed>> {
    let mut len = 0;
    // SAFETY: The name is a NUL-terminated string, `len` is valid for writing.
    let page = unsafe { ffi::fdbox_shim_kho_incoming(abi::SUBTREE.as_char_ptr(), &mut len) };
    if page.is_null() {
        return None;
    }
    // SAFETY: KHO keeps the page that the subtree points at; we read at most one page of it.
    let bytes = unsafe { core::slice::from_raw_parts(page.cast::<u8>(), len.min(abi::ROOT_LEN)) };
    if bytes.starts_with(&abi::MAGIC_TAKEN) {
        return None;
    }
    Some(take_incoming(bytes, page))
}

fn take_incoming(bytes: &[u8], page: *const c_void) -> Result<(abi::Root, Body), abi::Malformed> {
    let root = abi::Root::decode(bytes, crc32)?;
    let len = usize::try_from(root.body_len).map_err(|_| abi::Malformed::Truncated)?;
    let pages = u32::from_le_bytes([8, 9, 10, 11].map(|at| root.body_vmalloc[at]));
    if len == 0 || len.div_ceil(kernel::page::PAGE_SIZE) > pages as usize {
        return Err(abi::Malformed::Truncated);
    }
    // SAFETY: The descriptor has passed the root's checksum.
    let ptr = unsafe { ffi::fdbox_shim_kho_restore_body(root.body_vmalloc.as_ptr()) };
    let ptr = core::ptr::NonNull::new(ptr.cast::<u8>()).ok_or(abi::Malformed::Truncated)?;
    let taken = &abi::MAGIC_TAKEN;
    // SAFETY: The root is decoded and the page, which KHO keeps, is longer than the mark.
    unsafe { ffi::fdbox_shim_kho_mark_incoming(page, taken.as_ptr(), taken.len()) };
    // INVARIANT: The area has `pages` pages, which is `len` bytes or more.
    Ok((root, Body { ptr, len }))
}
