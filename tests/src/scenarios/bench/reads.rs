//! How many reads a second a guest gets done, whatever its VMM is.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use fdbox_lab::bench::{Drive, READS, Reads, SLOW_BLACKOUT};
use fdbox_lab::device::{DISK_DEPTH, LATENT_DRIVE, SLOW_DRIVE};
use fdbox_lab::event::EventPort;

use super::say;
use crate::guest::{Guest, Spec, VMM};
use crate::network::{self, Links};
use crate::reads;

/// In which a guest has used up what the slow drive does at once.
const SLOW_BEATS: usize = 3;

/// Tells them for each drive: with one in flight, and with many.
pub(super) fn reads() -> Result<()> {
    let port = Arc::new(EventPort::open()?);
    Drive::ALL
        .into_iter()
        .try_for_each(|drive| on(drive, &port))?;
    slow(&port)
}

fn on(drive: Drive, port: &Arc<EventPort>) -> Result<()> {
    let path = match drive {
        Drive::Latent => reads::drive_named(LATENT_DRIVE)?,
        Drive::Quick => network::drive(0),
    };
    let mut guest = boot(&path, port)?;
    for depth in [1, DISK_DEPTH] {
        let per_second = reads::per_second(&mut guest, depth)?;
        let figures = Reads {
            drive,
            depth,
            per_second,
        };
        say(port, READS, figures)?;
    }
    // It reads for good.
    guest.runner()?.kill()
}

/// Tells how long it stands while its VMM is replaced, with a ring full of reads of the slow drive.
fn slow(port: &Arc<EventPort>) -> Result<()> {
    let mut guest = boot(&reads::drive_named(SLOW_DRIVE)?, port)?;
    reads::flood(&mut guest, DISK_DEPTH)?;
    for _ in 0..SLOW_BEATS {
        guest.wait_for_beat()?;
    }
    guest.upgrade(VMM, &[])?.expect(0)?;
    let blackout = &guest.resume_report()?["blackout"]["total_ns"];
    say(
        port,
        SLOW_BLACKOUT,
        blackout.as_u64().context("A blackout")?,
    )?;
    guest.runner()?.kill()?;
    Ok(())
}

/// With no options of the disk's: not every VMM has them.
fn boot(path: &Path, port: &Arc<EventPort>) -> Result<Guest> {
    let spec = Spec {
        name: "reads",
        ram: "guest_memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: Some(0),
    };
    let links = Links::by_name(0)?.with_disk(format!("path={}", path.display()));
    Guest::boot_by(&mut Command::new(VMM), spec, Some(&links), &[], port)
}
