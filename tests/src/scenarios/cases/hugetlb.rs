//! memfds of huge pages: they come back in huge pages of the same size, and the pool's accounts are
//! right.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::fchown;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::{
    FallocateFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs,
    ftruncate,
};
use rustix::io::Errno;

use super::memfd::{hand_over, take_out};
use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::hugetlb::{Counts, Pool, Size, Window};
use crate::memory::{PAGE, check_page, check_size, check_zero_page};
use crate::uapi;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "hugetlb/2-MiB",
        about: "huge pages arrive as such, with content, seals, position and owner; the pool grows by them, \
                and has them when the file is closed",
        host: HostKind::Kexec,
        stages: &[whole_before, whole_after],
    },
    &Scenario {
        name: "hugetlb/holes",
        about: "holes are filled from the pool and arrive as zeros",
        host: HostKind::Kexec,
        stages: &[holes_before, holes_after],
    },
    &Scenario {
        name: "hugetlb/vmemmap",
        about: "pages whose struct pages are optimised away arrive, and theirs are optimised there",
        host: HostKind::Kexec,
        stages: &[vmemmap_before, vmemmap_after],
    },
    &Scenario {
        name: "hugetlb/not-taken",
        about: "the memory of a file that is deleted with its box goes to the page allocator, not to the pool",
        host: HostKind::Kexec,
        stages: &[not_taken_before, not_taken_after],
    },
    &Scenario {
        name: "hugetlb/carried",
        about: "a file goes untouched through a kernel to the next one",
        host: HostKind::Kexec,
        stages: &[carried_before, carried, carried_after],
    },
    &Scenario {
        name: "hugetlb/1-GiB",
        about: "a huge page of 1 GiB arrives as such",
        host: HostKind::LargeKexec,
        stages: &[gib_before, gib_after],
    },
    &Scenario {
        name: "hugetlb/frozen-while-sealed",
        about: "a file in a sealed box keeps its size and its pages, and can be written",
        host: HostKind::OneBoot,
        stages: &[frozen],
    },
    &Scenario {
        name: "hugetlb/empty-pool",
        about: "SEAL of a hole that the pool has no page for is refused with the page, and changes nothing",
        host: HostKind::OneBoot,
        stages: &[empty_pool],
    },
];

const POOL: Pool = Pool(Size::TwoMib);
const HUGE: u64 = 2 << 20;
/// Pages of 4 KiB in one of 2 MiB.
const IN_HUGE: u64 = HUGE / PAGE;
const FILE_PAGES: u64 = 4;
const FILE_BYTES: u64 = FILE_PAGES * HUGE;

/// All pages of 4 KiB of a file of [`FILE_PAGES`].
fn all() -> std::ops::Range<u64> {
    0..FILE_PAGES * IN_HUGE
}

/// A file with content derived from `seed`, with pages that are added to the pool for it.
fn filled(seed: u64) -> Result<File> {
    POOL.grow(FILE_PAGES)?;
    let file = Size::TwoMib.file(c"huge", FILE_PAGES)?;
    Window::reserving(&file, FILE_BYTES)?.write(seed, all());
    Ok(file)
}

const SEALS: SealFlags = SealFlags::GROW.union(SealFlags::SHRINK);
const POSITION: u64 = HUGE + 123;

fn whole_before(_: &Cx<'_>) -> Result<()> {
    let mut file = filled(1)?;
    fcntl_add_seals(&file, SEALS)?;
    file.seek(SeekFrom::Start(POSITION))?;
    fchown(&file, Some(7), Some(8))?;
    let mut window = Window::new(&file, FILE_BYTES)?;
    hand_over("hugetlb", file)?;
    // A running guest writes to it.
    window.write(2, 0..IN_HUGE);
    Ok(())
}

fn whole_after(_: &Cx<'_>) -> Result<()> {
    let before = POOL.counts()?;
    // The pool could borrow pages: those that arrive are its own nevertheless.
    POOL.overcommit(FILE_PAGES)?;
    let mut file = take_out("hugetlb")?;
    let taken = Counts {
        all: before.all + FILE_PAGES,
        ..before
    };
    equal("The pool with the file", POOL.counts()?, taken)?;
    equal("What sysctl says of it", sysctl("nr_hugepages")?, taken.all)?;
    equal(
        "The size of a page",
        fstatfs(&file)?.f_bsize as u64,
        Size::TwoMib.bytes(),
    )?;
    check_size(&file, FILE_BYTES)?;
    equal("The seals", fcntl_get_seals(&file)?, SEALS)?;
    equal("The position", file.stream_position()?, POSITION)?;
    let stat = fstat(&file)?;
    equal("The owner", (stat.st_uid, stat.st_gid), (7, 8))?;
    equal("The blocks", stat.st_blocks as u64, FILE_BYTES / 512)?;
    // A mapping finds all pages there, and reserves none.
    let mut window = Window::reserving(&file, FILE_BYTES)?;
    equal("The pool with a mapping", POOL.counts()?, taken)?;
    window.check(2, 0..IN_HUGE)?;
    window.check(1, IN_HUGE..FILE_PAGES * IN_HUGE)?;
    window.write(3, all());
    equal("The pool after writing", POOL.counts()?, taken)?;
    drop(window);
    check_page(&file, 3, IN_HUGE)?;
    drop(file);
    POOL.overcommit(0)?;
    returned(before)
}

fn sysctl(name: &str) -> Result<u64> {
    Ok(fs::read_to_string(format!("/proc/sys/vm/{name}"))?
        .trim()
        .parse()?)
}

/// The pages of a closed file are free pages of the pool, which another file can have, and go to the
/// host when the pool shrinks.
fn returned(before: Counts) -> Result<()> {
    let closed = Counts {
        all: before.all + FILE_PAGES,
        free: before.free + FILE_PAGES,
        ..before
    };
    equal("The pool when the file is closed", POOL.counts()?, closed)?;
    let other = Size::TwoMib.file(c"other", FILE_PAGES)?;
    let mut window = Window::reserving(&other, FILE_BYTES)?;
    ensure!(
        all().all(|index| window.page(index).iter().all(|byte| *byte == 0)),
        "Another file gets pages with content"
    );
    drop((window, other));
    equal("The pool after another file", POOL.counts()?, closed)?;
    POOL.resize(before.all)?;
    equal("The pool when it is shrunk", POOL.counts()?, before)
}

fn holes_before(_: &Cx<'_>) -> Result<()> {
    POOL.grow(FILE_PAGES)?;
    let file = Size::TwoMib.file(c"huge", FILE_PAGES)?;
    // Pages 0 and 2 of the four.
    let mut window = Window::new(&file, FILE_BYTES)?;
    window.write(4, [0, 2 * IN_HUGE]);
    hand_over("hugetlb-holes", file)
}

fn holes_after(_: &Cx<'_>) -> Result<()> {
    let before = POOL.counts()?;
    let file = take_out("hugetlb-holes")?;
    for index in all() {
        match index % (2 * IN_HUGE) {
            0 => check_page(&file, 4, index)?,
            _ => check_zero_page(&file, index)?,
        }
    }
    drop(file);
    returned(before)
}

const OPTIMIZE: &str = "/proc/sys/vm/hugetlb_optimize_vmemmap";
/// Pages of struct pages that a huge page of 2 MiB does without: 7 of 8.
const OPTIMIZED: u64 = 7;

/// The number of pages that the kernel has struct pages in.
fn memmap_pages() -> Result<u64> {
    let vmstat = fs::read_to_string("/proc/vmstat")?;
    let mut sum = 0;
    for name in ["nr_memmap_pages ", "nr_memmap_boot_pages "] {
        let value = vmstat.lines().find_map(|line| line.strip_prefix(name));
        let value: u64 = value
            .with_context(|| format!("No {name}in vmstat"))?
            .parse()?;
        sum += value;
    }
    Ok(sum)
}

fn vmemmap_before(cx: &Cx<'_>) -> Result<()> {
    if fs::write(OPTIMIZE, "1").is_err() {
        cx.value("skipped", "hugetlb/vmemmap: this kernel cannot do it")?;
        return Ok(());
    }
    let before = memmap_pages()?;
    let file = filled(5)?;
    let saved = before - memmap_pages()?;
    ensure!(
        saved >= OPTIMIZED * FILE_PAGES,
        "Only {saved} pages are saved here"
    );
    hand_over("hugetlb-vmemmap", file)?;
    Ok(fs::write(OPTIMIZE, "0")?)
}

fn vmemmap_after(_: &Cx<'_>) -> Result<()> {
    if fs::write(OPTIMIZE, "1").is_err() {
        return Ok(());
    }
    let (before, memmap) = (POOL.counts()?, memmap_pages()?);
    let file = take_out("hugetlb-vmemmap")?;
    let mut window = Window::reserving(&file, FILE_BYTES)?;
    window.check(5, all())?;
    equal(
        "The pages of struct pages",
        memmap_pages()?,
        memmap - OPTIMIZED * FILE_PAGES,
    )?;
    drop((window, file));
    returned(before)?;
    equal("The same when the pool is shrunk", memmap_pages()?, memmap)?;
    Ok(fs::write(OPTIMIZE, "0")?)
}

fn not_taken_before(_: &Cx<'_>) -> Result<()> {
    hand_over("hugetlb-not-taken", filled(6)?)
}

fn not_taken_after(_: &Cx<'_>) -> Result<()> {
    let before = POOL.counts()?;
    let fdbox = FdBox::open("hugetlb-not-taken")?;
    equal("The descriptors", fdbox.entries()?.len(), 1)?;
    fdbox.unseal()?;
    fdbox.delete()?;
    equal("The pool", POOL.counts()?, before)?;
    // The memory is the host's: the pool can have it.
    POOL.grow(FILE_PAGES)?;
    POOL.resize(before.all)
}

fn carried_before(_: &Cx<'_>) -> Result<()> {
    hand_over("hugetlb-carried", filled(7)?)
}

fn carried(_: &Cx<'_>) -> Result<()> {
    let entries = FdBox::open("hugetlb-carried")?.entries()?;
    equal("The state in the list", entries[0].state, uapi::FD_INCOMING)?;
    equal("The size in the list", entries[0].bytes, FILE_BYTES)
}

fn carried_after(_: &Cx<'_>) -> Result<()> {
    let before = POOL.counts()?;
    let file = take_out("hugetlb-carried")?;
    Window::reserving(&file, FILE_BYTES)?.check(7, all())?;
    drop(file);
    returned(before)
}

const GIB_POOL: Pool = Pool(Size::OneGib);
/// One page of 4 KiB in 2 MiB.
const GIB_STEP: usize = 512;

fn in_gib() -> impl Iterator<Item = u64> {
    (0..(1 << 30) / PAGE).step_by(GIB_STEP)
}

fn gib_before(_: &Cx<'_>) -> Result<()> {
    equal("What is free in the pool", GIB_POOL.counts()?.free, 1)?;
    let file = Size::OneGib.file(c"gib", 1)?;
    Window::reserving(&file, 1 << 30)?.write(8, in_gib());
    hand_over("hugetlb-gib", file)
}

fn gib_after(_: &Cx<'_>) -> Result<()> {
    let before = GIB_POOL.counts()?;
    let file = take_out("hugetlb-gib")?;
    let taken = Counts {
        all: before.all + 1,
        ..before
    };
    equal("The pool with the file", GIB_POOL.counts()?, taken)?;
    equal(
        "The size of a page",
        fstatfs(&file)?.f_bsize as u64,
        Size::OneGib.bytes(),
    )?;
    Window::reserving(&file, 1 << 30)?.check(8, in_gib())?;
    drop(file);
    let closed = Counts {
        free: before.free + 1,
        ..taken
    };
    equal("The pool when it is closed", GIB_POOL.counts()?, closed)?;
    GIB_POOL.resize(before.all)
}

fn frozen(_: &Cx<'_>) -> Result<()> {
    let before = POOL.counts()?;
    let file = filled(9)?;
    let fdbox = FdBox::create("hugetlb-frozen")?;
    fdbox.put(file.try_clone()?, "memory")?;
    fdbox.seal()?;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let grow = FallocateFlags::empty();
    let changes = || {
        [
            ("Shrinking it", ftruncate(&file, HUGE)),
            ("Growing it", ftruncate(&file, FILE_BYTES + HUGE)),
            ("Allocating", fallocate(&file, grow, 0, FILE_BYTES + HUGE)),
            ("Punching a hole", fallocate(&file, punch, 0, HUGE)),
        ]
    };
    for (what, result) in changes() {
        fails(what, result, Errno::PERM)?;
    }
    // A writable mapping beyond its end would make it grow.
    let longer = Window::new(&file, FILE_BYTES + HUGE);
    ensure!(longer.is_err(), "It is mapped beyond its end");
    check_size(&file, FILE_BYTES)?;
    let mut window = Window::reserving(&file, FILE_BYTES)?;
    window.check(9, all())?;
    window.write(10, 0..1);
    let other = FdBox::create("hugetlb-other")?;
    other.put(file.try_clone()?, "memory")?;
    fails("SEAL in another box", other.try_seal(), Errno::BUSY)?;
    other.delete()?;
    fdbox.unseal()?;
    fdbox.delete()?;
    drop(window);
    check_page(&file, 10, 0)?;
    fallocate(&file, punch, 0, HUGE).context("Punch a hole")?;
    check_zero_page(&file, 0)?;
    ftruncate(&file, HUGE).context("Shrink it")?;
    drop(file);
    POOL.resize(before.all)?;
    equal("The pool", POOL.counts()?, before)
}

fn empty_pool(_: &Cx<'_>) -> Result<()> {
    let before = POOL.counts()?;
    equal("What is free in the pool", before.free, 0)?;
    POOL.grow(1)?;
    let file = Size::TwoMib.file(c"huge", FILE_PAGES)?;
    Window::new(&file, FILE_BYTES)?.write(11, 0..1);
    let fdbox = FdBox::create("hugetlb-empty-pool")?;
    fdbox.put(file.try_clone()?, "memory")?;
    fails("SEAL", fdbox.try_seal(), Errno::NOMEM)?;
    let why = fdbox.seal_error()?;
    equal("The reason", why.reason, uapi::REASON_NO_MEMORY)?;
    let message = uapi::text(&why.message);
    let page = format!("no huge page of 2048 KiB for page {IN_HUGE}:");
    ensure!(message.contains(&page), "The message is: {message}");
    // Not frozen any more.
    ftruncate(&file, 2 * HUGE).context("Shrink it")?;
    POOL.grow(1)?;
    fdbox.seal()?;
    fdbox.unseal()?;
    check_page(&file, 11, 0)?;
    check_zero_page(&file, IN_HUGE)?;
    fdbox.delete()?;
    drop(file);
    POOL.resize(before.all)?;
    equal("The pool", POOL.counts()?, before)
}
