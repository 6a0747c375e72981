//! When each write of a guest reached the image of its drive, as seen from outside: the lab reads
//! the numbers of the writes from the image whenever the image has changed.
//!
//! Data that reaches the image during the blackout was read by the drive from the guest's memory
//! without the guest.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fdbox_lab::disk::{BLOCK_BYTES, number_of};

/// The polling interval. The guest's requests take much longer.
const INTERVAL: Duration = Duration::from_millis(10);

/// When each write was first seen in the image, by its number: time since the machine was started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Landed(pub(crate) BTreeMap<u64, Duration>);

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct Landings {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Landed>>>,
}

impl Landings {
    /// Watches the image of a machine that was started at `started`.
    pub(crate) fn watch(image: &Path, started: Instant) -> Result<Self> {
        let file = File::open(image).with_context(|| format!("Open {}", image.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || look(&file, started, &stopped));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops watching.
    pub(crate) fn end(mut self) -> Result<Landed> {
        match self.stop() {
            Some(Ok(landed)) => landed.context("Watch the image of the drive"),
            _ => bail!("Nobody watched the image of the drive"),
        }
    }

    fn stop(&mut self) -> Option<std::thread::Result<Result<Landed>>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join)
    }
}

impl Drop for Landings {
    fn drop(&mut self) {
        self.stop();
    }
}

fn look(file: &File, started: Instant, stop: &AtomicBool) -> Result<Landed> {
    let mut landed = Landed::default();
    let mut seen = None;
    while !stop.load(Ordering::Relaxed) {
        let metadata = file.metadata()?;
        let changed = Some((metadata.mtime(), metadata.mtime_nsec()));
        // A later change with the same timestamp is noticed with the next change.
        if changed != seen {
            seen = changed;
            note(file, metadata.len(), started.elapsed(), &mut landed)?;
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(landed)
}

/// Records the writes that were not in the image before.
fn note(file: &File, bytes: u64, now: Duration, landed: &mut Landed) -> Result<()> {
    let mut block = [0; BLOCK_BYTES];
    for place in 0..bytes / BLOCK_BYTES as u64 {
        file.read_exact_at(&mut block, place * BLOCK_BYTES as u64)?;
        // A block of zeros was never written: writes are numbered from 1.
        let number = number_of(&block);
        if number > 0 {
            landed.0.entry(number).or_insert(now);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdbox_lab::disk::Layout;

    #[test]
    fn a_write_is_seen_once_it_is_in_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::create(&path).unwrap();
        file.set_len(64 * BLOCK_BYTES as u64).unwrap();
        let layout = Layout::new(3, 64 * BLOCK_BYTES as u64).unwrap();
        let mut landed = Landed::default();
        let image = File::open(&path).unwrap();
        let at = Duration::from_secs;
        note(&image, 64 * BLOCK_BYTES as u64, at(1), &mut landed).unwrap();
        assert!(landed.0.is_empty());
        let mut block = [0; BLOCK_BYTES];
        for (second, number) in [(2, 5), (3, 4)] {
            layout.fill(number, &mut block);
            let place = layout.place(number) * BLOCK_BYTES as u64;
            file.write_all_at(&block, place).unwrap();
            note(&image, 64 * BLOCK_BYTES as u64, at(second), &mut landed).unwrap();
        }
        assert_eq!(landed.0, BTreeMap::from([(5, at(2)), (4, at(3))]));
    }
}
