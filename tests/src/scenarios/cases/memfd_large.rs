//! Large memfds: with huge pages, a thousand files, 1 GiB.

use std::ffi::CStr;
use std::fs::File;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::mm::{MapFlags, ProtFlags};

use super::memfd::{hand_over, take_out};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::memory::{
    MIB, PAGE, check_page, check_pages, check_size, in_huge_pages, memfd, write_page, write_pages,
};
use crate::{memory, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "memfd/large-folios",
        about: "memory in huge pages arrives in huge pages",
        host: HostKind::Kexec,
        stages: &[large_folios_before, large_folios_after],
    },
    &Scenario {
        name: "memfd/many",
        about: "a thousand memfds in one box arrive under their names",
        host: HostKind::Kexec,
        stages: &[many_before, many_after],
    },
    &Scenario {
        name: "memfd/1-GiB",
        about: "1 GiB arrives, with every page checked, described by extents and not by page",
        host: HostKind::LargeKexec,
        stages: &[gib_before, gib_after],
    },
];

const HUGE: u64 = 2 * MIB;

/// A memfd with huge pages, and content derived from `seed`.
pub(super) fn memfd_in_huge_pages(name: &CStr, seed: u64, pages: u64) -> Result<File> {
    in_huge_pages(|| {
        let file = memfd(name, pages * PAGE)?;
        write_pages(&file, seed, pages)?;
        Ok(file)
    })
}

fn large_folios_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd_in_huge_pages(c"large-folios", 7, 4 * HUGE / PAGE)?;
    equal(
        "The part in huge pages here",
        huge_bytes(&file, 4 * HUGE)?,
        4 * HUGE,
    )?;
    hand_over("large-folios", file)
}

fn large_folios_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("large-folios")?;
    check_pages(&file, 7, 4 * HUGE / PAGE)?;
    equal(
        "The part in huge pages there",
        huge_bytes(&file, 4 * HUGE)?,
        4 * HUGE,
    )
}

/// How much of the file the kernel maps with huge entries, which is only possible for huge pages.
fn huge_bytes(file: &File, len: u64) -> Result<u64> {
    let len = len as usize;
    let (protection, reserve) = (ProtFlags::READ, ProtFlags::empty());
    let null = std::ptr::null_mut();
    // The address must be a multiple of the size of a huge page: reserves room for two, then maps
    // over an aligned part. SAFETY: a new mapping at no particular address does not affect existing
    // ones.
    let room = unsafe {
        rustix::mm::mmap_anonymous(null, len + HUGE as usize, reserve, MapFlags::PRIVATE)?
    };
    let start = room.map_addr(|address| address.next_multiple_of(HUGE as usize));
    // SAFETY: this replaces a part of the mapping just created, which nothing else uses.
    unsafe {
        rustix::mm::mmap(
            start,
            len,
            protection,
            MapFlags::SHARED | MapFlags::FIXED,
            file,
            0,
        )?;
    }
    for at in (0..len).step_by(PAGE as usize) {
        let byte = start.cast::<u8>().wrapping_add(at);
        // SAFETY: the byte is in the mapping, which is readable; nothing writes to it.
        unsafe { byte.read_volatile() };
    }
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    // SAFETY: both mappings belong to this function, and nothing refers to them any more.
    unsafe { rustix::mm::munmap(room, len + HUGE as usize)? };
    let begins = format!("{:x}-", start.addr());
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begins));
    let line = lines
        .find_map(|line| line.strip_prefix("ShmemPmdMapped:"))
        .context("The mapping is not in smaps")?;
    let kib = line
        .split_whitespace()
        .next()
        .context("ShmemPmdMapped has a number")?;
    Ok(kib.parse::<u64>()? * 1024)
}

const MANY: u64 = 1000;

fn many_before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("many")?;
    for number in 0..MANY {
        let file = memfd(c"many", PAGE)?;
        write_page(&file, 1000 + number, 0)?;
        fdbox.put(file, &format!("memory-{number}"))?;
    }
    fdbox.seal()
}

fn many_after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("many")?;
    let entries = fdbox.entries()?;
    equal("The number of descriptors", entries.len() as u64, MANY)?;
    for entry in &entries {
        equal("The state in the list", entry.state, uapi::FD_INCOMING)?;
        equal("The size in the list", entry.bytes, PAGE)?;
    }
    fdbox.unseal()?;
    // In reverse: the order in which they were put in must not matter.
    for number in (0..MANY).rev() {
        let file = memory::file(fdbox.get(&format!("memory-{number}"))?);
        check_page(&file, 1000 + number, 0)?;
    }
    fdbox.delete()
}

const GIB_PAGES: u64 = (1 << 30) / PAGE;

fn gib_before(cx: &Cx<'_>) -> Result<()> {
    let file = memfd(c"gib", 1 << 30)?;
    // One word per page would suffice for the order; every byte is written as by a guest.
    write_pages(&file, 10, GIB_PAGES)?;
    hand_over("gib", file)?;
    let info = crate::fdbox::info()?;
    cx.value(
        "gib_handover",
        [
            info.handover_bytes,
            info.handover_extents,
            info.handover_pages,
        ],
    )?;
    ensure!(
        info.handover_pages >= GIB_PAGES,
        "The handover keeps {} pages",
        info.handover_pages
    );
    // Per page it would be 262144 entries and at least 2 MiB. The actual number depends on the page
    // allocator: some 80 with unfragmented memory, and 16608 were seen where pages had to be moved
    // out of CMA.
    ensure!(
        info.handover_extents < GIB_PAGES / 4,
        "The handover takes {} extents for {GIB_PAGES} pages",
        info.handover_extents
    );
    Ok(())
}

fn gib_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("gib")?;
    check_size(&file, 1 << 30)?;
    check_pages(&file, 10, GIB_PAGES)
}
