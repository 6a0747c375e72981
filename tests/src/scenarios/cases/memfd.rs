//! memfds: every shape of one crosses a kexec with what the kind says it preserves.

use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt, fchown};

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::memory::{
    MIB, PAGE, check_page, check_pages, check_size, check_zero_page, memfd, write_page, write_pages,
};
use crate::{memory, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "memfd/empty",
        about: "a memfd of 0 bytes arrives, and grows afterwards",
        host: HostKind::Kexec,
        stages: &[empty_before, empty_after],
    },
    &Scenario {
        name: "memfd/one-page",
        about: "one page arrives with what was written to it after SEAL",
        host: HostKind::Kexec,
        stages: &[one_page_before, one_page_after],
    },
    &Scenario {
        name: "memfd/odd-size",
        about: "a size that is no multiple of a page is kept to the byte",
        host: HostKind::Kexec,
        stages: &[odd_size_before, odd_size_after],
    },
    &Scenario {
        name: "memfd/holes",
        about: "holes read as zeros on the other side, data beside them stays",
        host: HostKind::Kexec,
        stages: &[holes_before, holes_after],
    },
    &Scenario {
        name: "memfd/seals",
        about: "the file's own seals still hold",
        host: HostKind::Kexec,
        stages: &[seals_before, seals_after],
    },
    &Scenario {
        name: "memfd/position",
        about: "the position of the file is where it was",
        host: HostKind::Kexec,
        stages: &[position_before, position_after],
    },
    &Scenario {
        name: "memfd/owner-and-name",
        about: "owner, group, mode and the name in /proc are what they were",
        host: HostKind::Kexec,
        stages: &[owner_before, owner_after],
    },
    &Scenario {
        name: "memfd/large-folios",
        about: "memory in huge pages arrives in huge pages",
        host: HostKind::Kexec,
        stages: &[large_folios_before, large_folios_after],
    },
    &Scenario {
        name: "memfd/frozen-while-sealed",
        about: "while the box is sealed a memfd keeps its shape, and can be written",
        host: HostKind::OneBoot,
        stages: &[frozen],
    },
    &Scenario {
        name: "memfd/many",
        about: "a hundred memfds in one box arrive under their names",
        host: HostKind::Kexec,
        stages: &[many_before, many_after],
    },
    &Scenario {
        name: "memfd/1-GiB",
        about: "1 GiB arrives, every page of it checked, described by extents and not by page",
        host: HostKind::LargeKexec,
        stages: &[gib_before, gib_after],
    },
];

/// Puts one file into a box of its own and seals it.
fn hand_over(name: &str, file: File) -> Result<()> {
    let fdbox = FdBox::create(name)?;
    fdbox.put(file, "memory")?;
    fdbox.seal()
}

/// Takes the file out again on the other side, and leaves no box behind.
fn take_out(name: &str) -> Result<File> {
    let fdbox = FdBox::open(name)?;
    fails(
        "GET_FD from a sealed box",
        fdbox.try_get("memory"),
        Errno::BUSY,
    )?;
    fdbox.unseal()?;
    let file = memory::file(fdbox.get("memory")?);
    fdbox.delete()?;
    Ok(file)
}

fn empty_before(_: &Cx<'_>) -> Result<()> {
    hand_over("empty", memfd(c"empty", 0)?)
}

fn empty_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("empty")?;
    check_size(&file, 0)?;
    write_pages(&file, 1, 3)?;
    check_pages(&file, 1, 3)
}

fn one_page_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"one-page", PAGE)?;
    write_page(&file, 1, 0)?;
    let kept = file.try_clone()?;
    hand_over("one-page", file)?;
    // Content may change while the box is sealed: it is what a running guest does.
    write_page(&kept, 2, 0)
}

fn one_page_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("one-page")?;
    check_size(&file, PAGE)?;
    check_page(&file, 2, 0)
}

fn odd_size_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"odd-size", 2 * PAGE + 5)?;
    write_pages(&file, 3, 2)?;
    file.write_all_at(b"hello", 2 * PAGE)?;
    hand_over("odd-size", file)
}

fn odd_size_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("odd-size")?;
    check_size(&file, 2 * PAGE + 5)?;
    check_pages(&file, 3, 2)?;
    let mut rest = [0; 5];
    file.read_exact_at(&mut rest, 2 * PAGE)?;
    equal("The last five bytes", &rest, b"hello")?;
    // What lies in the last page behind the end must not come to light.
    ftruncate(&file, 3 * PAGE)?;
    let mut behind = vec![1; (PAGE - 5) as usize];
    file.read_exact_at(&mut behind, 2 * PAGE + 5)?;
    ensure!(
        behind.iter().all(|byte| *byte == 0),
        "The bytes behind the end are not zero"
    );
    Ok(())
}

/// Pages 0, 100 and 511 of 512 have data.
const ISLANDS: [u64; 3] = [0, 100, 511];

fn holes_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"holes", 512 * PAGE)?;
    for index in ISLANDS {
        write_page(&file, 4, index)?;
    }
    hand_over("holes", file)
}

fn holes_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("holes")?;
    check_size(&file, 512 * PAGE)?;
    for index in 0..512 {
        match ISLANDS.contains(&index) {
            true => check_page(&file, 4, index)?,
            false => check_zero_page(&file, index)?,
        }
    }
    Ok(())
}

const SEALS: SealFlags = SealFlags::GROW
    .union(SealFlags::SHRINK)
    .union(SealFlags::WRITE);

fn seals_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"seals", PAGE)?;
    write_page(&file, 5, 0)?;
    fcntl_add_seals(&file, SEALS)?;
    hand_over("seals", file)
}

fn seals_after(_: &Cx<'_>) -> Result<()> {
    let mut file = take_out("seals")?;
    equal("The seals", fcntl_get_seals(&file)?, SEALS)?;
    fails("Growing it", ftruncate(&file, 2 * PAGE), Errno::PERM)?;
    fails("Shrinking it", ftruncate(&file, 0), Errno::PERM)?;
    match file.write(b"x") {
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {}
        other => bail!("Writing to it: {other:?}, EPERM was expected"),
    }
    check_page(&file, 5, 0)?;
    fcntl_add_seals(&file, SealFlags::SEAL).context("Add another seal")
}

fn position_before(_: &Cx<'_>) -> Result<()> {
    let mut file = memfd(c"position", 2 * PAGE)?;
    write_pages(&file, 6, 2)?;
    file.seek(SeekFrom::Start(PAGE + 123))?;
    hand_over("position", file)
}

fn position_after(_: &Cx<'_>) -> Result<()> {
    let mut file = take_out("position")?;
    equal("The position", file.stream_position()?, PAGE + 123)?;
    let mut next = [0; 8];
    file.read_exact(&mut next)?;
    equal(
        "What is read there",
        &next[..],
        &memory::page_content(6, 1)[123..131],
    )
}

/// The longest name that memfd_create takes.
fn longest_name() -> String {
    format!("{:x<249}", "owner-and-name-")
}

/// Owner, group and mode, and the name that /proc shows.
fn owner_and_name(file: &File) -> Result<([u32; 3], String)> {
    let stat = fstat(file)?;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok((
        [stat.st_uid, stat.st_gid, stat.st_mode],
        link.to_string_lossy().into_owned(),
    ))
}

fn expected() -> ([u32; 3], String) {
    let regular_file = 0o100_000;
    let name = format!("/memfd:{} (deleted)", longest_name());
    ([7, 8, regular_file | 0o640], name)
}

fn owner_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(&CString::new(longest_name())?, PAGE)?;
    fchown(&file, Some(7), Some(8))?;
    file.set_permissions(Permissions::from_mode(0o640))?;
    equal(
        "Owner, mode and name here",
        owner_and_name(&file)?,
        expected(),
    )?;
    hand_over("owner-and-name", file)
}

fn owner_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("owner-and-name")?;
    equal("Owner, mode and name", owner_and_name(&file)?, expected())
}

const HUGE: u64 = 2 * MIB;
const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

fn large_folios_before(_: &Cx<'_>) -> Result<()> {
    std::fs::write(SHMEM_ENABLED, "within_size").context("Allow huge pages for memfds")?;
    let file = memfd(c"large-folios", 4 * HUGE)?;
    write_pages(&file, 7, 4 * HUGE / PAGE)?;
    std::fs::write(SHMEM_ENABLED, "never")?;
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

/// How much of the file the kernel maps by huge entries, which it can for huge pages only.
fn huge_bytes(file: &File, len: u64) -> Result<u64> {
    let len = len as usize;
    let (protection, reserve) = (ProtFlags::READ, ProtFlags::empty());
    let null = std::ptr::null_mut();
    // An address that is a multiple of the huge page's size: room for two, then one over it.
    // SAFETY: a new mapping at no particular address takes nothing from anyone.
    let room = unsafe {
        rustix::mm::mmap_anonymous(null, len + HUGE as usize, reserve, MapFlags::PRIVATE)?
    };
    let start = room.map_addr(|address| address.next_multiple_of(HUGE as usize));
    // SAFETY: the mapping replaced is the one just made, which nobody else knows.
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
        // SAFETY: the byte lies in the mapping, which is readable; nobody writes to it.
        unsafe { byte.read_volatile() };
    }
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    // SAFETY: both mappings are this function's own, and nothing refers to them any more.
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

fn frozen(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"frozen", 4 * PAGE)?;
    write_pages(&file, 8, 4)?;
    let kept = file.try_clone()?;
    let fdbox = FdBox::create("frozen")?;
    fdbox.put(file, "memory")?;
    fdbox.seal()?;

    fails("Growing it", ftruncate(&kept, 8 * PAGE), Errno::PERM)?;
    fails("Shrinking it", ftruncate(&kept, PAGE), Errno::PERM)?;
    check_size(&kept, 4 * PAGE)?;
    write_page(&kept, 9, 2)?;
    check_page(&kept, 9, 2)?;

    fdbox.unseal()?;
    ftruncate(&kept, 8 * PAGE).context("Grow it when the box is open again")?;
    ftruncate(&kept, PAGE).context("Shrink it when the box is open again")?;
    let same = memory::file(fdbox.get("memory")?);
    check_size(&same, PAGE)?;
    check_page(&same, 8, 0)?;
    equal(
        "The file taken out",
        fstat(&same)?.st_ino,
        fstat(&kept)?.st_ino,
    )?;
    fdbox.delete()
}

const MANY: u64 = 100;

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
    // Backwards: the order they went in must not matter.
    for number in (0..MANY).rev() {
        let file = memory::file(fdbox.get(&format!("memory-{number}"))?);
        check_page(&file, 1000 + number, 0)?;
    }
    fdbox.delete()
}

const GIB_PAGES: u64 = (1 << 30) / PAGE;

fn gib_before(cx: &Cx<'_>) -> Result<()> {
    let file = memfd(c"gib", 1 << 30)?;
    // One word a page would do for the order; every byte is what a guest has.
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
    // By page it would be 262144 entries and at least 2 MiB. How few there are depends on what the
    // page allocator has: some 80 from fresh memory, 16608 seen where pages had to move out of CMA.
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
