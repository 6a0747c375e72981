//! A disk of the guest: written and read back continuously, bypassing the page cache.
//!
//! Each writer has one request in flight, so the number of requests is the number of writers. A
//! check of the whole disk takes the gate exclusively: that waits for the requests in flight and
//! blocks new ones. All other locks are held briefly, one at a time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::disk::{BLOCK_BYTES, Layout};
use fdbox_lab::witness::DiskIo;
use rustix::fs::{OFlags, SeekFrom, seek};

use crate::clocks::Gap;
use crate::lock;
use crate::requests::Requests;

/// Between two requests of one kind: the host needs the CPU too, and may have only one.
const PAUSE: Duration = Duration::from_millis(4);
/// Writes between two flushes.
const FLUSH_EVERY: u64 = 8;
/// How many bad blocks are described.
const EXAMPLES: usize = 8;
/// Blocks that a check of the whole disk reads at once: under two layers of emulation the overhead
/// of a request is as large as the cost of its data.
const RUN_BLOCKS: u64 = 64;
const RUN_BYTES: usize = RUN_BLOCKS as usize * BLOCK_BYTES;

/// Blocks aligned as O_DIRECT requires.
#[repr(align(4096))]
pub(crate) struct Aligned<const BYTES: usize>(pub(crate) [u8; BYTES]);

impl<const BYTES: usize> Aligned<BYTES> {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([0; BYTES]))
    }
}

#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    layout: Layout,
    /// Held shared while a block is written.
    gate: RwLock<()>,
    requests: Mutex<Requests>,
    done: Mutex<DiskIo>,
}

impl Disk {
    pub(crate) fn open(device: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(device)
            .with_context(|| format!("Open {}", device.display()))?;
        let seed = fdbox_lab::tsc();
        let bytes = seek(&file, SeekFrom::End(0)).context("The size of the disk")?;
        let layout = Layout::new(seed, bytes).context("The disk has a size to work with")?;
        let done = DiskIo {
            seed,
            ..DiskIo::default()
        };
        Ok(Self {
            file,
            layout,
            gate: RwLock::default(),
            requests: Mutex::default(),
            done: Mutex::new(done),
        })
    }

    /// Writes block after block until the end is requested. Several threads may do this, but far
    /// fewer than the disk has blocks, so that no two of them ever write the same block.
    pub(crate) fn write(&self, pace: u32) {
        let mut block = Aligned::new();
        loop {
            let writing = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let Some(number) = lock(&self.requests).begin() else {
                return;
            };
            self.layout.fill(number, &mut block.0);
            let written = self
                .file
                .write_all_at(&block.0, self.offset(self.layout.place(number)));
            self.note("write", written);
            // A block that could not be written is found to be bad when it is read.
            let settled = lock(&self.requests).end(number);
            let mut done = lock(&self.done);
            done.writes = done.writes.max(settled);
            drop(done);
            if number.is_multiple_of(FLUSH_EVERY) {
                self.flush();
            }
            drop(writing);
            std::thread::sleep(PAUSE * pace);
        }
    }

    /// Reads back recently written blocks until the end is requested.
    pub(crate) fn read(&self, pace: u32) {
        let mut block = Aligned::new();
        loop {
            let (settled, ended) = {
                let requests = lock(&self.requests);
                (requests.settled(), requests.finished())
            };
            if ended {
                return;
            }
            // Any of the younger half: the writers will not return to it for a long time.
            let age = fdbox_lab::tsc() % (self.layout.blocks() / 2).max(1);
            if let Some(number) = settled.checked_sub(age).filter(|number| *number > 0) {
                let found = self.look_at(number, &mut block);
                if lock(&self.requests).begun() < number + self.layout.blocks() {
                    self.count(found);
                }
            }
            std::thread::sleep(PAUSE * pace);
        }
    }

    /// Reads every block that was written, while nothing is being written.
    pub(crate) fn check(&self) {
        let _nobody_writes = self.close_gate();
        let settled = lock(&self.requests).settled();
        let mut written: Vec<_> = self.layout.written(settled).collect();
        written.sort_unstable();
        let mut run = Aligned::new();
        for blocks in written.chunk_by(|one, next| one.0 / RUN_BLOCKS == next.0 / RUN_BLOCKS) {
            self.check_run(blocks, &mut run);
        }
    }

    /// Reads these blocks, all from one run and in order, and compares each with the last write to
    /// it.
    fn check_run(&self, written: &[(u64, u64)], run: &mut Aligned<RUN_BYTES>) {
        let (Some((first, _)), Some((last, _))) = (written.first(), written.last()) else {
            return;
        };
        let bytes = &mut run.0[..(last - first + 1) as usize * BLOCK_BYTES];
        if let Err(error) = self.file.read_exact_at(bytes, self.offset(*first)) {
            return self.bad(format!("Reading blocks {first} to {last}: {error}"));
        }
        let (blocks, _) = bytes.as_chunks();
        for (place, number) in written {
            let block = &blocks[(place - first) as usize];
            self.count(self.layout.check(*number, block));
        }
    }

    /// Ends the writes, and flushes what was written.
    pub(crate) fn end(&self) {
        let _nobody_writes = self.close_gate();
        if lock(&self.requests).finish() {
            self.flush();
        }
    }

    pub(crate) fn done(&self) -> DiskIo {
        lock(&self.done).clone()
    }

    /// The writes that were in flight during the guest's blackout.
    pub(crate) fn in_flight_over(&self, gap: Gap) -> Vec<u64> {
        lock(&self.requests).in_flight_at(gap.ended_ns.saturating_sub(gap.monotonic_ns / 2))
    }

    fn close_gate(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at(&self, number: u64, block: &mut Aligned<BLOCK_BYTES>) -> Result<(), String> {
        let place = self.layout.place(number);
        self.file
            .read_exact_at(&mut block.0, self.offset(place))
            .map_err(|error| format!("Reading block {place}: {error}"))?;
        self.layout.check(number, &block.0)
    }

    fn offset(&self, place: u64) -> u64 {
        place * BLOCK_BYTES as u64
    }

    fn flush(&self) {
        self.note("flush", self.file.sync_data());
        lock(&self.done).flushes += 1;
    }

    fn note(&self, what: &str, result: std::io::Result<()>) {
        if let Err(error) = result {
            self.bad(format!("A {what} failed: {error}"));
        }
    }

    fn count(&self, found: Result<(), String>) {
        lock(&self.done).verified += 1;
        if let Err(what) = found {
            self.bad(what);
        }
    }

    fn bad(&self, what: String) {
        let mut done = lock(&self.done);
        done.bad += 1;
        if done.examples.len() < EXAMPLES {
            done.examples.push(what);
        }
    }
}
