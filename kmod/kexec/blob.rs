// SPDX-License-Identifier: GPL-2.0

//! The blob that KHO hands over from one kernel to the next: a root, which is a page in a KHO
//! subtree, and a body in vmalloc memory.

use crate::abi;
use crate::ffi;
use crate::kexec::kho::crc32;
use crate::kexec::subtree;
use crate::lending::HostRoot;
use kernel::{
    error::to_result,
    prelude::*,
    str::CStrExt, //
};

/// An area of vmalloc memory.
///
/// # Invariants
///
/// `ptr` is valid for reading and writing `len` bytes and is owned by this object.
pub(crate) struct Body {
    ptr: core::ptr::NonNull<u8>,
    len: usize,
}

// SAFETY: `Body` owns plain memory.
unsafe impl Send for Body {}

impl Body {
    /// `len` zeroed bytes.
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
        // SAFETY: By the type invariants the memory is vmalloc memory that we own.
        unsafe { ffi::fdbox_shim_vfree(self.ptr.as_ptr().cast()) };
    }
}

/// Writes into a [`Body`] from front to back.
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

/// A blob for the next kernel, which finds it once it is published.
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
    /// Creates a body of `len` bytes with `fill`, and its root from what `root` returns.
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

    /// Creates a blob from `body` and `root`, filling in the address of the body.
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

    /// The physical address of its root.
    pub(crate) fn root_at(&self) -> u64 {
        // SAFETY: By the type invariants the root is a page.
        unsafe { ffi::fdbox_shim_phys_of(self.root.as_ptr()) }
    }

    /// Its size in bytes, without the page tables of the body.
    pub(crate) fn len(&self) -> usize {
        abi::ROOT_LEN + self.body.len
    }

    /// Publishes it, unless that was already done.
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

/// A blob of the last kernel. It belongs to KHO until it is [`taken`](Self::taken).
///
/// # Invariants
///
/// `page` is the root that KHO refers to. The descriptor of the body has passed the root's
/// checksum.
pub(crate) struct Left {
    page: *const c_void,
    root: abi::Root,
    len: usize,
}

// SAFETY: The page is plain memory that stays, and only `taken()`, which is called once, writes to it.
unsafe impl Send for Left {}
// SAFETY: As above.
unsafe impl Sync for Left {}

/// The blob of the last kernel, with a valid root, unless it was consumed before.
pub(crate) fn incoming() -> Option<Result<Left, abi::Malformed>> {
    let (page, len) = match subtree::find(abi::SUBTREE) {
        Ok(found) => found?,
        Err(_) => return Some(Err(abi::Malformed::Subtree)),
    };
    // SAFETY: KHO keeps the page that the subtree points to; we read at most one page of it.
    let bytes = unsafe { core::slice::from_raw_parts(page.as_ptr(), len.min(abi::ROOT_LEN)) };
    if bytes.starts_with(&abi::MAGIC_CONSUMED) {
        return None;
    }
    Some(Left::read(bytes, page.as_ptr().cast()))
}

/// A root, and the length of its body.
fn read_root(bytes: &[u8]) -> Result<(abi::Root, usize), abi::Malformed> {
    let root = abi::Root::decode(bytes, crc32)?;
    let len = usize::try_from(root.body_len).map_err(|_| abi::Malformed::Truncated)?;
    let pages = u32::from_le_bytes([8, 9, 10, 11].map(|at| root.body_vmalloc[at]));
    if len == 0 || len.div_ceil(kernel::page::PAGE_SIZE) > pages as usize {
        return Err(abi::Malformed::Truncated);
    }
    Ok((root, len))
}

/// A copy of the host's blob, made in the boat. The host may free the blob meanwhile: `EAGAIN` if it
/// is damaged.
pub(crate) fn of_host(host: HostRoot) -> Result<(abi::Root, Body)> {
    let mut bytes = [0; abi::ROOT_LEN];
    copy_of_host(host.at, &mut bytes)?;
    let (root, len) = read_root(&bytes).map_err(|_| EAGAIN)?;
    let body = Body::new(len)?;
    // SAFETY: `body` has room for its length. The caller checks what it contains.
    let copied = to_result(unsafe {
        ffi::fdbox_shim_host_copy_body(
            root.body_vmalloc.as_ptr(),
            host.number,
            body.ptr.as_ptr().cast(),
            len,
        )
    });
    copied.map_err(changed)?;
    Ok((root, body))
}

/// Copies memory of the host's, in the boat. Fails with `EAGAIN` if it cannot be the host's.
pub(crate) fn copy_of_host(at: u64, out: &mut [u8]) -> Result {
    // SAFETY: `out` is valid for writing its length. Any bytes are valid there.
    let copied =
        to_result(unsafe { ffi::fdbox_shim_host_copy(at, out.as_mut_ptr().cast(), out.len()) });
    copied.map_err(changed)
}

/// The error of a copy: what is damaged is a handover that has changed meanwhile.
fn changed(err: Error) -> Error {
    match err {
        EIO => EAGAIN,
        err => err,
    }
}

impl Left {
    fn read(bytes: &[u8], page: *const c_void) -> Result<Left, abi::Malformed> {
        let (root, len) = read_root(bytes)?;
        // INVARIANT: KHO refers to the page, and its checksum was correct.
        Ok(Left { page, root, len })
    }

    /// Its root.
    pub(crate) fn root(&self) -> abi::Root {
        self.root
    }

    /// Returns a copy of its body, so that the blob is unchanged if loading the module fails. Fails
    /// with `EIO` if the memory of the body was not preserved.
    pub(crate) fn body(&self) -> Result<Body> {
        let body = Body::new(self.len)?;
        // SAFETY: By the type invariants; the body has room for its length.
        to_result(unsafe {
            ffi::fdbox_shim_kho_copy_body(
                self.root.body_vmalloc.as_ptr(),
                body.ptr.as_ptr().cast(),
                self.len,
            )
        })?;
        Ok(body)
    }

    /// Consumes it: it can no longer be found, and the memory of its body is freed.
    pub(crate) fn taken(self) {
        let mark = &abi::MAGIC_CONSUMED;
        // SAFETY: By the type invariants; the page, which KHO keeps, is longer than the mark.
        unsafe { ffi::fdbox_shim_kho_mark_incoming(self.page, mark.as_ptr(), mark.len()) };
        // SAFETY: By the type invariants; nobody has taken it before.
        let ptr = unsafe { ffi::fdbox_shim_kho_restore_body(self.root.body_vmalloc.as_ptr()) };
        if let Some(ptr) = core::ptr::NonNull::new(ptr.cast::<u8>()) {
            // INVARIANT: The area has as many pages as `read()` has seen, for `len` bytes or more.
            drop(Body { ptr, len: self.len });
        }
        // Otherwise there was not enough memory to take it over: it stays reserved until the next
        // kernel.
    }
}
