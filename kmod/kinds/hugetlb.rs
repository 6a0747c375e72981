// SPDX-License-Identifier: GPL-2.0

//! memfd of huge pages: an unlinked file of the kernel's own mount of hugetlbfs.
//!
//! Preserved: as for memfd, and the size of the pages. They arrive as pages of the pool of their size,
//! which grows by them, and return to it when the file is closed.
//!
//! Not preserved: as for memfd, and which cgroups they were charged to (the taker's are charged). Holes
//! are filled from the pool and stay filled after UNSEAL.
//!
//! While sealed: as for memfd.
//!
//! Refused: poisoned pages (hwpoison); files of a mounted hugetlbfs and SysV shared memory are not of
//! this kind.
//!
//! Data: see `abi/hugetlb.rs`. Extents: the whole file, from its first page on.

use super::memfd;
use crate::abi::hugetlb as abi_hugetlb;
use crate::abi::memfd::NAME_MAX;
use crate::ffi::{
    MemfdState,
    Step, //
};
use crate::file::{
    self,
    FileRef, //
};
use crate::kexec::kho;
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::Kind;
use crate::objects::memfd as object;
use crate::seal_cx::{
    Reason,
    SealCx, //
};
use crate::take_cx::TakeCx;
use crate::unseal_cx::{
    LostReason,
    UnsealCx, //
};
use kernel::{
    fs::File,
    page::PAGE_SHIFT,
    prelude::*, //
};

const PATCH: &str = "CONFIG_HUGETLBFS and kmod/patches/0022-mm-hugetlb-take-folios-from-another-kernel.patch, 0021 and 0001";

/// Folios pinned at a time: each may have to be zeroed.
const BATCH: usize = 16;

pub(crate) struct Hugetlb;

/// The memfd behind `file`, if it is one of huge pages.
fn huge(file: &File) -> Option<object::Memfd<'_>> {
    object::Memfd::of(file).filter(|memfd| memfd.is_huge())
}

impl Kind for Hugetlb {
    fn compatible(&self) -> &[u8] {
        abi_hugetlb::HUGETLB
    }

    fn matches(&self, file: &File) -> bool {
        huge(file).is_some()
    }

    fn supported(&self) -> Result<(), &'static str> {
        match object::is_huge_supported() {
            true => Ok(()),
            false => Err(PATCH),
        }
    }

    fn bytes(&self, file: &File) -> u64 {
        file::size(file)
    }

    /// The inode, as for memfd.
    fn object(&self, file: &File) -> usize {
        file::inode(file)
    }

    fn seal(&self, cx: &mut SealCx<'_>) -> Result {
        let memfd = huge(cx.file).ok_or(EIO)?;
        let mut step = Step::default();
        let filled = match kho::enabled() {
            true => memfd.fill_huge(&mut step),
            false => Ok(()),
        };
        match filled {
            // A file that is frozen cannot be filled, nor frozen again.
            Ok(()) | Err(EPERM) => memfd::freeze(cx, memfd),
            Err(ENOMEM) => Err(no_page(cx, memfd.state().page_shift, step.failed_at)),
            Err(err) => Err(err),
        }
    }

    fn write(&self, cx: &SealCx<'_>, record: &mut Record) -> Result {
        let memfd = huge(cx.file).ok_or(EIO)?;
        let page_shift = memfd.state().page_shift;
        let mut name = [0; NAME_MAX];
        let saved = abi_hugetlb::Hugetlb {
            page_shift,
            memfd: memfd::saved(memfd, &mut name),
        };
        saved.put(record)?;
        memfd::pin_all(cx.file, memfd, BATCH, record).map_err(|(err, page)| {
            record.unpin();
            match err {
                ENOMEM => no_page(cx, page_shift, page),
                _ => memfd::not_pinned(cx, err, page),
            }
        })
    }

    fn unseal(&self, file: &File, record: Option<&Record>) {
        if let Some(record) = record {
            record.unpin();
        }
        if let Some(memfd) = huge(file) {
            memfd.thaw();
        }
    }

    fn check(&self, cx: &mut UnsealCx<'_>, _compatible: &[u8], record: &Record) -> Result {
        let saved = saved_in(record)?;
        let state = MemfdState {
            page_shift: saved.page_shift,
            ..MemfdState::default()
        };
        match object::create(c"", &state) {
            Err(ENOMEM) => Err(ENOMEM),
            Err(EOPNOTSUPP) => Err(cx.lost(
                EOPNOTSUPP,
                LostReason::UnknownKind,
                fmt!(
                    "this kernel has no huge pages of {} KiB (hugepagesz=)",
                    kib(saved.page_shift)
                ),
            )),
            // Whoever takes it out may be allowed what this caller is not.
            _ => Ok(()),
        }
    }

    fn restore(
        &self,
        cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        record: &Record,
        progress: &mut Progress,
    ) -> Result<FileRef> {
        let saved = saved_in(record)?;
        memfd::restore(cx, record, progress, &saved.memfd, saved.page_shift)
    }
}

/// What is saved, whose extents must cover the size of the file in pages of that size.
fn saved_in(record: &Record) -> Result<abi_hugetlb::Hugetlb<'_>> {
    let saved = abi_hugetlb::Hugetlb::decode(record.data()).map_err(|_| EIO)?;
    let order = saved.page_shift - PAGE_SHIFT as u32;
    match record.is_of_order(order) && memfd::covers(record, &saved.memfd) {
        true => Ok(saved),
        false => Err(EIO),
    }
}

/// Refuses the SEAL because the pool has no page for `page`.
fn no_page(cx: &SealCx<'_>, page_shift: u32, page: u64) -> Error {
    cx.refuse(
        ENOMEM,
        Reason::NoMemory,
        fmt!(
            "no huge page of {} KiB for page {}: SEAL fills holes from the pool, and moves pages that lie where the kernel must be able to move them (KHO's area, CMA or movable memory); raise nr_hugepages, or the limit of the hugetlb cgroup",
            kib(page_shift),
            page
        ),
    )
}

/// The size of a page in KiB.
fn kib(page_shift: u32) -> u64 {
    1 << (page_shift - 10)
}
