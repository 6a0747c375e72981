//! Memory that is spread over a large host: single pages, some in each GiB.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::{FallocateFlags, fallocate, ftruncate};

use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::host;
use crate::memory::{
    self, MIB, PAGE, check_page, check_size, frame, in_huge_pages, memfd, write_page,
};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "memfd/page-in-each-GiB",
    about: "single pages in each GiB of a host arrive where they were, and the next kernel has all other memory",
    host: HostKind::LargeKexec,
    stages: &[before, after],
}];

const BOX: &str = "scattered";
/// The file in which this kernel notes for the next one the page frame number of each page.
const NOTES: &str = "notes";
const SEED: u64 = 210;
/// Files that are allocated to reach all of the memory. Their huge pages are not zeroed before they are used, so this
/// takes little of the emulator's memory.
const FILE_BYTES: u64 = 64 * MIB;
/// What is left to the host.
const SPARE_BYTES: u64 = 1 << 30;
/// Of the host's eight: one is a huge page, and one is left to the host.
const LEAST_GIBS: usize = 6;
const GIB_FRAMES: u64 = (1 << 30) / PAGE;

fn before(cx: &Cx<'_>) -> Result<()> {
    let files = allocate()?;
    let fdbox = FdBox::create(BOX)?;
    for (number, file) in files.iter().enumerate() {
        write_page(file, SEED, 0)?;
        ftruncate(file, PAGE).context("Keep one page")?;
        fdbox.put(file.try_clone()?, &page(number))?;
    }
    let notes = memfd(c"notes", PAGE)?;
    fdbox.put(notes.try_clone()?, NOTES)?;
    fdbox.seal()?;
    // SEAL may have moved a page, but not after that.
    let frames = files.iter().map(frame).collect::<Result<Vec<_>>>()?;
    let gibs: BTreeSet<_> = frames.iter().map(|frame| frame / GIB_FRAMES).collect();
    ensure!(
        gibs.len() >= LEAST_GIBS,
        "There are pages in these GiB only: {gibs:?}"
    );
    cx.value("scattered", &gibs)?;
    let bytes: Vec<_> = frames.into_iter().flat_map(u64::to_le_bytes).collect();
    notes.write_all_at(&bytes, 0).context("Write the notes")
}

fn after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    let pages = fdbox.entries()?.len() - 1;
    fdbox.unseal()?;
    let mut notes = [0; PAGE as usize];
    memory::file(fdbox.get(NOTES)?).read_exact_at(&mut notes, 0)?;
    let files = (0..pages).map(|number| fdbox.get(&page(number)).map(memory::file));
    let files = files.collect::<Result<Vec<_>>>()?;
    for (file, noted) in files.iter().zip(notes.chunks_exact(8)) {
        check_size(file, PAGE)?;
        check_page(file, SEED, 0)?;
        equal("Its page frame", &frame(file)?.to_le_bytes()[..], noted)?;
    }
    // What is around the pages is free: there is room for as many files as before, up to what varies.
    let now = allocate()?.len();
    ensure!(
        now + 2 >= pages,
        "Room for {now} files of {FILE_BYTES} bytes, and for {pages} in the last kernel"
    );
    fdbox.delete()
}

fn page(number: usize) -> String {
    format!("page-{number}")
}

/// As many files in huge pages as there is memory for.
fn allocate() -> Result<Vec<File>> {
    let room = host::meminfo("MemAvailable")?.saturating_sub(SPARE_BYTES) / FILE_BYTES;
    in_huge_pages(|| {
        let files = (0..room).map(|_| {
            let file = memfd(c"scattered", FILE_BYTES)?;
            fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES).context("Allocate a file")?;
            Ok(file)
        });
        files.collect()
    })
}
