// SPDX-License-Identifier: GPL-2.0

//! iommufd: the I/O address spaces of devices.
//!
//! Preserved: IOASs with their ids, and their mappings of memfds.
//!
//! Not preserved: page tables as such (HWPTs come back with the devices that are attached to them,
//! see `vfio_pci.rs`), statistics, accounting of pinned memory.
//!
//! Depends on: the memfd behind each mapping. SEAL refuses, by name, mappings of other memory
//! (anonymous memory, MMIO, dma-buf, guest_memfd: only `IOMMU_IOAS_MAP_FILE` of a memfd), IOASs and
//! HWPTs with options, and every other object.
//!
//! While sealed: every ioctl on it, binding a device to it, and attaching and detaching its devices,
//! is EBUSY.
//!
//! GET_FD in the next kernel creates a new iommufd with the same ids, which maps the files that
//! were taken out of the box before: EAGAIN while one of them is still in it.
//!
//! Data: see `abi/dma.rs`. No extents.

use crate::abi::dma::{
    self as abi_dma,
    Item,
    Mapping, //
};
use crate::file::FileRef;
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::Kind;
use crate::name::Name;
use crate::objects::iommufd::{
    self as object,
    NewMapping,
    Seen, //
};
use crate::seal_cx::{
    Reason,
    SealCx, //
};
use crate::take_cx::TakeCx;
use crate::unseal_cx::UnsealCx;
use kernel::{
    fs::File,
    prelude::*, //
};

/// What a kernel without our patches lacks.
pub(super) const PATCH: &str =
    "the iommufd, VFIO, PCI and IOMMU patches of kmod/patches (0006 and on)";

/// What is missing if iommufd is a module that is not loaded.
const MODULE: &str = "iommufd.ko: load it, and try again";

pub(crate) struct Iommufd;

/// Name in the box of a file that is mapped.
fn name_of<'a>(cx: &'a SealCx<'_>, mapping: &object::Mapping) -> Option<&'a Name> {
    cx.name_of(mapping.inode())
}

/// Refuses what cannot be recreated in the next kernel.
fn check(cx: &mut SealCx<'_>, seen: &Seen) -> Result {
    match seen {
        Seen::Ioas(_) => Ok(()),
        Seen::Mapping(mapping) if !mapping.is_of_memfd() => Err(cx.refuse(
            EOPNOTSUPP,
            Reason::UnsupportedState,
            fmt!(
                "IOVA {:#x} maps a file that is no memfd; unmap it, or map a memfd",
                mapping.iova()
            ),
        )),
        Seen::Mapping(mapping) if name_of(cx, mapping).is_none() => Err(cx.refuse(
            ENOENT,
            Reason::MissingDependency,
            fmt!(
                "the memfd that is mapped at IOVA {:#x} is not in the box; put it in",
                mapping.iova()
            ),
        )),
        Seen::Mapping(_) => Ok(()),
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
        object::Iommufd::of(file).is_some() || super::kvm_vm::unserved(self, file, c"iommu")
    }

    fn supported(&self) -> Result<(), &'static str> {
        super::lacks(object::lacks(), MODULE, PATCH)
    }

    fn object(&self, file: &File) -> usize {
        object::Iommufd::of(file).map_or(0, object::Iommufd::address)
    }

    fn waits_for_files(&self) -> bool {
        true
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        cx.needs_read_and_write()?;
        let iommufd = object::Iommufd::of(cx.file).ok_or(EIO)?;
        iommufd.freeze().map_err(|err| {
            cx.refuse(
                err,
                Reason::SharedFile,
                fmt!("the iommufd is sealed already, under another name or in another box"),
            )
        })?;
        let checked = iommufd.contents(|seen| check(cx, &seen));
        if checked.is_err() {
            iommufd.thaw();
        }
        checked
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        let iommufd = object::Iommufd::of(cx.file).ok_or(EIO)?;
        iommufd.contents(|seen| match seen {
            Seen::Ioas(id) => Item::Ioas(id).put(record),
            Seen::Mapping(mapping) => Item::Mapping(Mapping {
                ioas: mapping.ioas(),
                iova: mapping.iova(),
                length: mapping.length(),
                start: mapping.start(),
                prot: mapping.prot(),
                file: name_of(cx, &mapping).ok_or(ENOENT)?.as_bytes(),
            })
            .put(record),
            Seen::Other(..) => Err(EOPNOTSUPP),
        })
    }

    fn unseal(&self, file: &File, _record: Option<&Record>) {
        if let Some(iommufd) = object::Iommufd::of(file) {
            iommufd.thaw();
        }
    }

    fn check(&self, cx: &mut UnsealCx<'_>, _compatible: &[u8], record: &Record) -> Result {
        for item in abi_dma::items(record.data()) {
            if let Item::Mapping(mapping) = item.map_err(|_| EIO)? {
                cx.needs("memory that it maps,", mapping.file)?;
            }
        }
        Ok(())
    }

    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef> {
        let file = object::create()?;
        let iommufd = object::Iommufd::of(&file).ok_or(EIO)?;
        for item in abi_dma::items(record.data()) {
            match item.map_err(|_| EIO)? {
                Item::Ioas(id) => iommufd.add_ioas(id)?,
                Item::Mapping(mapping) => map_again(cx, iommufd, &mapping)?,
            }
        }
        cx.remember(&file, progress)?;
        Ok(file)
    }
}

fn map_again(cx: &TakeCx<'_>, to: object::Iommufd<'_>, mapping: &Mapping<'_>) -> Result {
    to.add_mapping(&NewMapping {
        ioas: mapping.ioas,
        prot: mapping.prot,
        iova: mapping.iova,
        length: mapping.length,
        start: mapping.start,
        file: cx.restored_file(mapping.file)?,
    })
}
