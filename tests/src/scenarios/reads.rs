//! How many reads of its disk a guest gets done, on drives of the host's that are told apart by their serial
//! numbers.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use fdbox_lab::witness::{WitnessEvent, command};

use crate::guest::Guest;

/// For how many heartbeats they are counted.
const BEATS: usize = 5;
const LIMIT: Duration = Duration::from_secs(180);

/// Keeps `depth` reads in flight on the guest's disk, and returns how many have completed, and
/// when.
pub(crate) fn flood(guest: &mut Guest, depth: u32) -> Result<(u64, u64)> {
    guest.console.say(&format!("{} {depth}", command::FLOOD))?;
    guest.console.wait("reads", LIMIT, |event| match event {
        WitnessEvent::Work { units, at_ns } => Some((units, at_ns)),
        _ => None,
    })
}

/// Reads a second with so many in flight, measured for some heartbeats. Never fewer in flight than before.
pub(crate) fn per_second(guest: &mut Guest, depth: u32) -> Result<u64> {
    flood(guest, depth)?;
    guest.wait_for_beat()?;
    let begin = flood(guest, depth)?;
    for _ in 0..BEATS {
        guest.wait_for_beat()?;
    }
    let end = flood(guest, depth)?;
    Ok((end.0 - begin.0) * 1_000_000_000 / (end.1 - begin.1).max(1))
}

/// A drive of the host, by its serial number.
pub(crate) fn drive_named(wanted: &str) -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if serial.trim() == wanted {
            // Read-ahead would take throughput from other requests.
            fs::write(entry.path().join("queue/read_ahead_kb"), "0")?;
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("The host has no drive {wanted}")
}
