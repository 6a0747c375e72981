//! A box that a host lends to its boat, which works on its memory while the host kexecs.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};

use super::memfd_large::memfd_in_huge_pages;
use super::{Cx, Scenario};
use crate::boat::{Boat, RUNNING, Spec, of_none, started};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::memory::{self, MIB, PAGE, memfd, page_content};
use crate::spare::comes_back;
use crate::uapi::{
    HOLDER_BOAT, HOLDER_HOST, HOLDER_OFFERED, HOLDER_SHOWN, LEND_LOOK, LEND_OFFER, LEND_READY,
    LEND_RECALL, LEND_SHOW,
};
use crate::{host, uapi};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "lifeboat/borrows",
    about: "a boat maps the memory of a box of its host's, changes and sums it while the host kexecs, \
                and the next kernel takes the box",
    host: HostKind::Lifeboat,
    stages: &[lends, takes_back],
}];

const CPU: u32 = 1;
const NAME: &str = "lent";
const MEMORY: &str = "memory";
const SEED: u64 = 16;
const PAGES: u64 = 32 * MIB / PAGE;
/// Without large mappings there would be a fault for each page.
const MOST_FAULTS: u64 = PAGES / 8;

/// The words of the first page, by which the boat tells how far it is.
#[derive(Clone, Copy)]
enum Progress {
    Stage,
    /// How often it has added 1 to the first word of each other page.
    Rounds,
    /// Of all words of the other pages, before the first round.
    Sum,
    /// Page faults of the first pass over the memory.
    Faults,
}

/// Stages of the boat.
const MAPPED: u64 = 1;
const TAKEN: u64 = 2;
const RETURNS: u64 = 3;

fn progress(file: &File, of: Progress) -> Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, of as u64 * 8)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The words of a page of the host's file.
fn words_of(index: u64) -> impl Iterator<Item = u64> {
    let bytes = page_content(SEED, index);
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|word| word.try_into().map_or(0, u64::from_le_bytes))
        .collect();
    words.into_iter()
}

pub(super) fn holder(fdbox: &FdBox) -> Result<u32> {
    Ok(fdbox.try_lend(LEND_LOOK).context("Ask who has it")?.holder)
}

fn lends(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    without_a_boat()?;
    let spec = Spec {
        memory_mib: 128,
        ..Spec::new(&format!("help:borrow,{NAME}"), &[CPU])
    };
    started(&boat, &spec, 0)?;
    let file = memfd_in_huge_pages(c"lent", SEED, PAGES)?;
    file.write_all_at(&[0; PAGE as usize], 0)?;
    let fdbox = FdBox::create(NAME)?;
    fdbox.put(file.try_clone()?, MEMORY)?;
    fails(
        "To lend an open box",
        fdbox.try_lend(LEND_SHOW),
        Errno::INVAL,
    )?;
    fdbox.seal()?;
    equal("Who has it", holder(&fdbox)?, HOLDER_HOST)?;
    let shown = fdbox.try_lend(LEND_SHOW).context("Show it")?;
    equal("Who has it", shown.holder, HOLDER_SHOWN)?;
    host::until("The boat has mapped it", || {
        Ok(progress(&file, Progress::Stage)? == MAPPED)
    })?;
    equal(
        "Whether the boat waits",
        fdbox.try_lend(LEND_LOOK)?.ready,
        1,
    )?;
    let offered = fdbox.try_lend(LEND_OFFER).context("Offer it")?;
    equal("The generation", offered.generation, shown.generation)?;
    host::until("The boat works", || {
        Ok(progress(&file, Progress::Rounds)? > 1)
    })?;
    equal("Who has it", holder(&fdbox)?, HOLDER_BOAT)?;
    fails("To unseal it", fdbox.try_unseal(), Errno::BUSY)?;
    for act in [LEND_SHOW, LEND_OFFER] {
        fails("To lend it again", fdbox.try_lend(act), Errno::BUSY)?;
    }
    boat.is_refused(
        "To stop the boat",
        boat.try_stop(0),
        Errno::BUSY,
        "the boat has the box lent",
    )?;
    keep_rounds(progress(&file, Progress::Rounds)?)
}

/// Boxes are lent to a boat only, and borrowed in one only.
fn without_a_boat() -> Result<()> {
    let fdbox = FdBox::create("alone")?;
    fdbox.put(memfd(c"alone", PAGE)?, "alone")?;
    fdbox.seal()?;
    for act in [LEND_LOOK, LEND_SHOW, LEND_OFFER, LEND_RECALL] {
        let what = format!("Act {act} without a boat");
        fails(&what, fdbox.try_lend(act), Errno::NXIO)?;
    }
    fails("An act that there is not", fdbox.try_lend(5), Errno::INVAL)?;
    let borrowed = FdBox::try_borrow("alone");
    fails("To borrow in a host", borrowed, Errno::NXIO)?;
    fdbox.unseal()?;
    fdbox.delete()
}

/// Tells the next kernel how far the boat was.
fn keep_rounds(rounds: u64) -> Result<()> {
    let file = memfd(c"rounds", PAGE)?;
    file.write_all_at(&rounds.to_le_bytes(), 0)?;
    let fdbox = FdBox::create("rounds")?;
    fdbox.put(file, "rounds")?;
    fdbox.seal()
}

fn last_rounds() -> Result<u64> {
    let fdbox = FdBox::open("rounds")?;
    fdbox.unseal()?;
    let file: File = memory::file(fdbox.get("rounds")?);
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0)?;
    fdbox.delete()?;
    Ok(u64::from_le_bytes(bytes))
}

fn takes_back(cx: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(NAME)?;
    fails(
        "To unseal it before the boat's module is loaded",
        fdbox.try_unseal(),
        Errno::AGAIN,
    )?;
    let boat = Boat::open()?;
    equal("The state", boat.status()?.state, RUNNING)?;
    equal("Who has it", holder(&fdbox)?, HOLDER_BOAT)?;
    fails("To unseal it", fdbox.try_unseal(), Errno::BUSY)?;
    let early: File = memory::file(maps_it_early(&fdbox)?);
    fails("To recall it", fdbox.try_lend(LEND_RECALL), Errno::BUSY)?;
    host::until("It is given back", || Ok(holder(&fdbox)? == HOLDER_OFFERED))?;
    fdbox.unseal()?;
    equal("Who has it", holder(&fdbox)?, HOLDER_HOST)?;
    let file: File = memory::file(fdbox.get(MEMORY)?);
    equal("The file", fstat(&file)?.st_ino, fstat(&early)?.st_ino)?;
    let before = last_rounds()?;
    let rounds = progress(&file, Progress::Rounds)?;
    equal("The stage", progress(&file, Progress::Stage)?, RETURNS)?;
    ensure!(
        rounds > before,
        "It stood still: {before} rounds, then {rounds}"
    );
    cx.value("rounds before and after", (before, rounds))?;
    cx.value("page faults", progress(&file, Progress::Faults)?)?;
    ensure!(
        progress(&file, Progress::Faults)? < MOST_FAULTS,
        "It was not mapped in large pages"
    );
    let sum = (1..PAGES).flat_map(words_of).fold(0, u64::wrapping_add);
    equal("The sum in the boat", progress(&file, Progress::Sum)?, sum)?;
    (1..PAGES).try_for_each(|index| check_page(&file, index, rounds))?;
    fdbox.delete()?;
    boat.stop()?;
    equal("What is left of the boat", boat.status()?, of_none())?;
    comes_back(CPU)
}

/// A file of the box can be had, and mapped, while the boat works on it.
fn maps_it_early(fdbox: &FdBox) -> Result<OwnedFd> {
    fails(
        "To take it out for good",
        fdbox.try_get(MEMORY),
        Errno::BUSY,
    )?;
    let nothing = fdbox.try_get_and_keep("nothing");
    fails("To get what is not in it", nothing, Errno::BUSY)?;
    let early = fdbox.get_and_keep(MEMORY)?;
    let file: File = memory::file(early.try_clone()?);
    let before = progress(&file, Progress::Rounds)?;
    host::until("The boat works", || {
        Ok(progress(&file, Progress::Rounds)? > before)
    })?;
    fails(
        "To cut what the boat works on",
        rustix::fs::ftruncate(&file, 0),
        Errno::PERM,
    )?;
    Ok(early)
}

/// The host's page, with `rounds` added to its first word.
fn check_page(file: &File, index: u64, rounds: u64) -> Result<()> {
    let mut found = vec![0; PAGE as usize];
    file.read_exact_at(&mut found, index * PAGE)?;
    let found = found
        .chunks_exact(8)
        .map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    for (at, (found, expected)) in found.zip(words_of(index)).enumerate() {
        let added = if at == 0 { rounds } else { 0 };
        ensure!(
            found == expected.wrapping_add(added),
            "Word {at} of page {index} is {found:#x}, not {expected:#x} and {added}"
        );
    }
    Ok(())
}

/// The helper `borrow NAME`, in the boat.
pub(super) fn borrow(name: &str) -> Result<()> {
    host::load_module("fdbox")?;
    retry(|| FdBox::try_borrow(name), &[Errno::NOENT, Errno::AGAIN]).context("Borrow the box")?;
    let again = FdBox::try_borrow(name);
    fails("To borrow it again", again, Errno::EXIST)?;
    let fdbox = FdBox::open(name)?;
    fails("To lend it on", fdbox.try_lend(LEND_SHOW), Errno::INVAL)?;
    equal(
        "The state",
        crate::fdbox::listed(name)?.map(|it| it.state),
        Some(uapi::STATE_SEALED),
    )?;
    let nothing = fdbox.try_get_and_keep("nothing");
    fails("To get what is not in it", nothing, Errno::BUSY)?;
    fails(
        "To take it out for good",
        fdbox.try_get(MEMORY),
        Errno::BUSY,
    )?;
    let file: File = memory::file(fdbox.get_and_keep(MEMORY)?);
    memory::check_size(&file, PAGES * PAGE)?;
    let lent = Lent::map(&file)?;
    fails(
        "To take what is only shown",
        fdbox.try_unseal(),
        Errno::AGAIN,
    )?;
    let ready = fdbox.try_lend(LEND_READY).context("Be ready for it")?;
    equal(
        "That it is ready",
        (ready.holder, ready.ready),
        (HOLDER_SHOWN, 1),
    )?;
    lent.set(Progress::Stage, MAPPED);
    retry(|| fdbox.try_unseal(), &[Errno::AGAIN]).context("Take the box")?;
    let taken = fdbox.try_lend(LEND_LOOK)?;
    equal("Whether it still waits", taken.ready, 0)?;
    fails(
        "To wait for what it has",
        fdbox.try_lend(LEND_READY),
        Errno::INVAL,
    )?;
    fails("To delete it", fdbox.try_delete(), Errno::BUSY)?;
    let put = fdbox.try_put(memfd(c"more", PAGE)?.into(), "more");
    fails(
        "To put more in",
        put.map_err(|(error, _)| error),
        Errno::OPNOTSUPP,
    )?;
    is_no_memfd(&file)?;
    let before = faults()?;
    lent.set(Progress::Sum, lent.sum());
    lent.set(Progress::Faults, faults()? - before);
    lent.set(Progress::Stage, TAKEN);
    let mut rounds = 0;
    while fdbox.try_lend(LEND_LOOK)?.wanted == 0 {
        lent.work();
        rounds += 1;
        lent.set(Progress::Rounds, rounds);
    }
    lent.set(Progress::Stage, RETURNS);
    fdbox.seal()?;
    let mut byte = [0];
    let read = file
        .read_at(&mut byte, 0)
        .map_err(|error| Errno::from_io_error(&error));
    equal("A read of what was given back", read, Err(Some(Errno::IO)))?;
    fdbox.delete()
}

/// It can neither grow nor be mapped privately.
fn is_no_memfd(file: &File) -> Result<()> {
    let grown = file.write_at(&[0], PAGES * PAGE);
    let grown = grown.map_err(|error| Errno::from_io_error(&error));
    equal("A write behind its end", grown, Err(Some(Errno::PERM)))?;
    let null = std::ptr::null_mut();
    // SAFETY: a new mapping at no particular address does not affect existing ones.
    let private = unsafe {
        mmap(
            null,
            PAGE as usize,
            ProtFlags::READ,
            MapFlags::PRIVATE,
            file,
            0,
        )
    };
    fails("A private mapping", private, Errno::INVAL)?;
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, PAGE)?;
    let found = u64::from_le_bytes(bytes);
    ensure!(
        words_of(1).next() == Some(found),
        "A read returns {found:#x}"
    );
    Ok(())
}

/// Retries as long as one of `errors` is returned. There are no wakeups between kernels.
pub(super) fn retry(
    mut act: impl FnMut() -> Result<(), Errno>,
    errors: &[Errno],
) -> Result<(), Errno> {
    loop {
        match act() {
            Err(error) if errors.contains(&error) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}

/// Page faults of this process so far.
fn faults() -> Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may have spaces.
    let fields = stat.rsplit_once(')').context("/proc/self/stat")?.1;
    let minor = fields.split_whitespace().nth(7).context("Page faults")?;
    Ok(minor.parse()?)
}

/// The mapped memory of the box.
struct Lent(&'static [AtomicU64]);

impl Lent {
    fn map(file: &File) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let (null, len) = (std::ptr::null_mut(), (PAGES * PAGE) as usize);
        // SAFETY: a new mapping at no particular address does not affect existing ones.
        let start = unsafe { mmap(null, len, protection, MapFlags::SHARED, file, 0) };
        let start = start.context("Map the memory")?;
        // SAFETY: the mapping has this length and is never unmapped; words that another process may
        // change are atomic.
        let words = unsafe { std::slice::from_raw_parts(start.cast(), len / 8) };
        Ok(Self(words))
    }

    /// The sum of all words but those of the first page.
    fn sum(&self) -> u64 {
        let words = self.0.iter().skip(PAGE as usize / 8);
        words.fold(0, |sum, word| sum.wrapping_add(word.load(Relaxed)))
    }

    /// Adds 1 to the first word of each page but the first one.
    fn work(&self) {
        for page in self.0.chunks_exact(PAGE as usize / 8).skip(1) {
            page[0].fetch_add(1, Relaxed);
        }
    }

    fn set(&self, of: Progress, value: u64) {
        self.0[of as usize].store(value, Release);
    }
}
