//! The guest's disk with many requests in flight: numbered writes that are read back, or endless
//! reads.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::Scope;

use anyhow::{Context, Result};
use fdbox_lab::device::DISK_DEPTH;
use fdbox_lab::disk::BLOCK_BYTES;
use fdbox_lab::witness::WitnessEvent;
use rustix::fs::{OFlags, SeekFrom, seek};

use crate::disk::{Aligned, Disk};

const DISK: &str = "/dev/vda";

/// The disk; it is set up on first use.
#[derive(Debug, Default)]
pub(crate) struct Deep {
    disk: OnceLock<Disk>,
    flood: OnceLock<Flood>,
}

#[derive(Debug)]
struct Flood {
    file: File,
    blocks: u64,
    next: AtomicU64,
    done: AtomicU64,
    /// The number of threads that read.
    depth: AtomicU32,
}

impl Deep {
    /// Starts to write and to read back, unless that is running already.
    pub(crate) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<()> {
        if self.disk.get().is_some() {
            return Ok(());
        }
        let opened = Disk::open(Path::new(DISK))?;
        let disk = self.disk.get_or_init(|| opened);
        for _ in 0..DISK_DEPTH {
            scope.spawn(move || disk.write(1));
        }
        scope.spawn(move || disk.read(1));
        Ok(())
    }

    /// Stops in an orderly way: all requests complete, and everything written is read once more.
    pub(crate) fn end(&self) {
        if let Some(disk) = self.disk.get() {
            disk.end();
            disk.check();
        }
    }

    /// The results so far.
    pub(crate) fn event(&self) -> WitnessEvent {
        let done = |disk: &Disk| WitnessEvent::Disk(Box::new(disk.done()));
        self.disk.get().map_or(WitnessEvent::What, done)
    }

    /// Keeps `depth` reads in flight forever, block after block, and reports how many completed.
    /// The data is not checked.
    pub(crate) fn flood<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        depth: u32,
    ) -> Result<WitnessEvent> {
        if self.flood.get().is_none() {
            let opened = Flood::open()?;
            self.flood.get_or_init(|| opened);
        }
        let Some(flood) = self.flood.get() else {
            return Ok(WitnessEvent::What);
        };
        for _ in flood.depth.fetch_max(depth, Ordering::SeqCst)..depth {
            scope.spawn(move || flood.read());
        }
        Ok(WitnessEvent::Work {
            units: flood.done.load(Ordering::Relaxed),
            at_ns: now_ns(),
        })
    }
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Flood {
    fn open() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(DISK)
            .with_context(|| format!("Open {DISK}"))?;
        let blocks = seek(&file, SeekFrom::End(0))? / BLOCK_BYTES as u64;
        Ok(Self {
            file,
            blocks,
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            depth: AtomicU32::new(0),
        })
    }

    fn read(&self) {
        let mut block = Aligned::<BLOCK_BYTES>::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed) % self.blocks;
            let read = self
                .file
                .read_exact_at(&mut block.0, number * BLOCK_BYTES as u64);
            if let Err(error) = read {
                eprintln!("lab-witness: block {number}: {error}");
                return;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}
