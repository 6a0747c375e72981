// SPDX-License-Identifier: GPL-2.0

//! iommufd: what devices may reach, and at which address.
//!
//! Preserved: IOASs with their ids, and their mappings of memfds.
//!
//! Not preserved: page tables as such (HWPTs come back with the devices that are attached to them,
//! see `vfio_pci.rs`), statistics, who pays for pinned memory.
//!
//! Depends on: the memfd behind each mapping. SEAL refuses, by name, mappings of other memory
//! (anonymous memory, MMIO, dma-buf, guest_memfd: only `IOMMU_IOAS_MAP_FILE` of a memfd), IOASs and
//! HWPTs with options, and every other object.
//!
//! While sealed: every ioctl on it, binding a device to it, and attaching and detaching its devices,
//! is EBUSY.
//!
//! GET_FD in the next kernel makes a new iommufd with the same ids, which maps the files that were
//! taken out of the box before: EAGAIN while one of them is still in it.
//!
//! Data: see `abi_dma.rs`. No extents.

use crate::abi_dma::{
    self,
    Item,
    Mapping, //
};
use crate::ffi::{
    self,
    IommufdMap,
    IommufdVisitor, //
};
use crate::file::{
    self,
    FileRef, //
};
use crate::kind::{
    Kind,
    Reason,
    SealCx,
    TakeCx, //
};
use crate::name::Name;
use crate::record::{
    Progress,
    Record, //
};
use kernel::{
    bindings,
    error::to_result,
    fs::File,
    prelude::*,
    str::CStr, //
};

/// What a kernel without our patches lacks.
pub(super) const PATCH: &str =
    "the iommufd, VFIO, PCI and VT-d patches of kmod/patches (0006 and on)";

pub(crate) struct Iommufd;

/// An iommufd as long as a file of it, or a device bound to it, is held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Context(*mut c_void);

impl Context {
    /// The iommufd behind `file`, if it is one.
    pub(super) fn of(file: &File) -> Option<Context> {
        // SAFETY: `file` is a live file.
        let ctx = unsafe { ffi::fdbox_shim_iommufd_of(file.as_ptr()) };
        (!ctx.is_null()).then_some(Context(ctx))
    }

    /// # Safety
    ///
    /// `ctx` is a `struct iommufd_ctx` that lives as long as the value is used.
    pub(super) unsafe fn from_raw(ctx: *mut c_void) -> Context {
        Context(ctx)
    }

    /// Its address as iommufd knows it.
    pub(super) fn as_ptr(self) -> *mut c_void {
        self.0
    }

    fn thaw(self) {
        // SAFETY: The file that `self` came from is held.
        unsafe { ffi::fdbox_shim_iommufd_thaw(self.0) };
    }

    /// What is in it. Its files are held as long as it is frozen.
    fn contents(self) -> Result<KVec<Seen>> {
        let visitor = IommufdVisitor {
            ioas: Some(see_ioas),
            map: Some(see_map),
            other: Some(see_other),
        };
        let mut seen = KVec::<Seen>::new();
        let data = core::ptr::from_mut(&mut seen).cast();
        // SAFETY: As above; the callbacks get `seen`, which outlives the call.
        to_result(unsafe { ffi::fdbox_shim_iommufd_visit(self.0, &visitor, data) })?;
        Ok(seen)
    }
}

/// One thing in an iommufd of this kernel.
enum Seen {
    Ioas(u32),
    Map(IommufdMap),
    /// Its id, and what it is.
    Other(u32, &'static CStr),
}

/// # Safety
///
/// `data` is the vector of [`Context::contents`].
unsafe fn see(data: *mut c_void, seen: Seen) -> c_int {
    // SAFETY: As promised by the caller; nobody else borrows it during the visit.
    let list = unsafe { &mut *data.cast::<KVec<Seen>>() };
    match list.push(seen, GFP_KERNEL) {
        Ok(()) => 0,
        Err(_) => ENOMEM.to_errno(),
    }
}

/// # Safety
///
/// As [`see`].
unsafe extern "C" fn see_ioas(data: *mut c_void, id: u32) -> c_int {
    // SAFETY: As promised by the caller.
    unsafe { see(data, Seen::Ioas(id)) }
}

/// # Safety
///
/// As [`see`]; `map` is valid for reading.
unsafe extern "C" fn see_map(data: *mut c_void, map: *const IommufdMap) -> c_int {
    // SAFETY: As promised by the caller.
    unsafe { see(data, Seen::Map(*map)) }
}

/// # Safety
///
/// As [`see`]; `what` is a string constant.
unsafe extern "C" fn see_other(data: *mut c_void, id: u32, what: *const c_char) -> c_int {
    // SAFETY: As promised by the caller.
    unsafe { see(data, Seen::Other(id, CStr::from_char_ptr(what))) }
}

/// Whether `file`, which is behind a mapping, is a memfd.
fn is_memfd(file: *mut bindings::file) -> bool {
    // SAFETY: The mapping holds the file.
    unsafe { ffi::fdbox_shim_is_memfd(file) }
}

/// Name of `file` in the box.
fn name_of<'a>(cx: &'a SealCx<'_>, file: *mut bindings::file) -> Option<&'a Name> {
    // SAFETY: The box holds the one file, the mapping the other.
    let same = |other: &File| unsafe { ffi::fdbox_shim_same_inode(other.as_ptr(), file) };
    cx.others()
        .find(|(_, other)| same(other))
        .map(|(name, _)| name)
}

/// Refuses what the next kernel could not make again.
fn check(cx: &mut SealCx<'_>, seen: &Seen) -> Result {
    match seen {
        Seen::Ioas(_) => Ok(()),
        Seen::Map(map) if !is_memfd(map.file) => Err(cx.refuse(
            EOPNOTSUPP,
            Reason::UnsupportedState,
            fmt!(
                "IOVA {:#x} maps a file that is no memfd; unmap it, or map a memfd",
                map.iova
            ),
        )),
        Seen::Map(map) if name_of(cx, map.file).is_none() => Err(cx.refuse(
            ENOENT,
            Reason::MissingDependency,
            fmt!(
                "the memfd that is mapped at IOVA {:#x} is not in the box; put it in",
                map.iova
            ),
        )),
        Seen::Map(_) => Ok(()),
        Seen::Other(id, what) => Err(cx.refuse(
            EOPNOTSUPP,
            Reason::UnsupportedState,
            fmt!(
                "object {} of the iommufd cannot be kept: {}; only IOASs that map memfds by file",
                id,
                kernel::str::BStr::from_bytes(what.to_bytes())
            ),
        )),
    }
}

impl Kind for Iommufd {
    fn compatible(&self) -> &[u8] {
        abi_dma::IOMMUFD
    }

    fn matches(&self, file: &File) -> bool {
        Context::of(file).is_some() || super::kvm_vm::unserved(self, file, c"iommu")
    }

    fn supported(&self) -> Result<(), &'static str> {
        // SAFETY: No precondition.
        match unsafe { ffi::fdbox_shim_passthrough_supported() } {
            true => Ok(()),
            false => Err(PATCH),
        }
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        let ctx = Context::of(cx.file).ok_or(EIO)?;
        // SAFETY: The file is held.
        to_result(unsafe { ffi::fdbox_shim_iommufd_freeze(ctx.as_ptr()) }).map_err(|err| {
            cx.refuse(
                err,
                Reason::SharedFile,
                fmt!("the iommufd is sealed already, under another name or in another box"),
            )
        })?;
        let checked = ctx
            .contents()
            .and_then(|seen| seen.iter().try_for_each(|seen| check(cx, seen)));
        if checked.is_err() {
            ctx.thaw();
        }
        checked
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        let ctx = Context::of(cx.file).ok_or(EIO)?;
        for seen in ctx.contents()?.iter() {
            match seen {
                Seen::Ioas(id) => Item::Ioas(*id).put(record)?,
                Seen::Map(map) => Item::Mapping(Mapping {
                    ioas: map.ioas,
                    iova: map.iova,
                    length: map.length,
                    start: map.start,
                    prot: map.prot,
                    file: name_of(cx, map.file).ok_or(ENOENT)?.as_bytes(),
                })
                .put(record)?,
                Seen::Other(..) => return Err(EOPNOTSUPP),
            }
        }
        Ok(())
    }

    fn unseal(&self, file: &File, _record: Option<&Record>) {
        if let Some(ctx) = Context::of(file) {
            ctx.thaw();
        }
    }

    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef> {
        // SAFETY: The file is ours, or it is an error.
        let file = unsafe { file::from_c(ffi::fdbox_shim_iommufd_create()) }?;
        let ctx = Context::of(&file).ok_or(EIO)?;
        for item in abi_dma::items(record.data()) {
            match item.map_err(|_| EIO)? {
                Item::Ioas(id) => {
                    // SAFETY: The file is held.
                    to_result(unsafe { ffi::fdbox_shim_iommufd_add_ioas(ctx.as_ptr(), id) })?
                }
                Item::Mapping(mapping) => map_again(cx, ctx, &mapping)?,
            }
        }
        cx.remember(&file, progress)?;
        Ok(file)
    }
}

fn map_again(cx: &TakeCx<'_>, ctx: Context, mapping: &Mapping<'_>) -> Result {
    let map = IommufdMap {
        ioas: mapping.ioas,
        prot: mapping.prot,
        iova: mapping.iova,
        length: mapping.length,
        start: mapping.start,
        file: cx.taken(mapping.file)?.as_ptr(),
    };
    // SAFETY: The box holds the file, the caller the iommufd.
    to_result(unsafe { ffi::fdbox_shim_iommufd_add_map(ctx.as_ptr(), &map) })
}
