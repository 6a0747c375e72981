//! A Debian guest that uses more memory than it has: part of it is in swap, on its disk, at each moment of an update.

use anyhow::{Result, ensure};

use super::super::Cx;
use super::super::guest::{leave_with, take_over};
use super::super::reports::healthy;
use super::marks::{mark, unnoticed};
use super::{boot, end_database, spec, start_database};
use crate::guest::{Guest, Spec};

/// A small guest: under emulation each page that goes to swap and back takes milliseconds.
const MIB: u64 = 256;
/// The file that it swaps to.
const SWAP: &str = "/var/lib/lab.swap";
const SWAP_MIB: u64 = 128;
/// How much must be in swap before an update and after it, and must have been read from there after it.
const LEAST_MIB: u64 = 32;
/// Prints the KiB that are in swap only: what was read back may be in memory and in swap.
const IN_SWAP: &str = "awk '/^Swap/ { kib[$1] = $2 } \
    END { print kib[\"SwapTotal:\"] - kib[\"SwapFree:\"] - kib[\"SwapCached:\"] }' /proc/meminfo";

fn pressure() -> Spec {
    Spec {
        mib: MIB,
        ..spec("pressure", 1)
    }
}

/// It swaps: that much is in its swap and not in its memory.
fn swaps(guest: &mut Guest) -> Result<()> {
    let mib = guest.number(IN_SWAP)? / 1024;
    println!("The guest has {mib} MiB in swap");
    ensure!(
        mib >= LEAST_MIB,
        "The guest has {mib} MiB in swap, not {LEAST_MIB}"
    );
    Ok(())
}

/// How much it has read from swap since it booted.
fn read_mib(guest: &mut Guest) -> Result<u64> {
    let pages = guest.number("sed -n 's/^pswpin //p' /proc/vmstat")?;
    Ok(pages * 4 / 1024)
}

/// It has read that much since the moment at which it had read `before` MiB.
fn has_read(guest: &mut Guest, before: u64) -> Result<()> {
    let read = read_mib(guest)? - before;
    println!("The guest has read {read} MiB from swap");
    ensure!(
        read >= LEAST_MIB,
        "The guest has read {read} MiB from swap, not {LEAST_MIB}"
    );
    Ok(())
}

pub(super) fn before(cx: &Cx<'_>) -> Result<()> {
    let mut guest = boot(pressure(), "")?;
    guest.shell(&format!(
        "fallocate -l {SWAP_MIB}M {SWAP} && chmod 600 {SWAP} && mkswap {SWAP} && swapon {SWAP}"
    ))?;
    start_database(&mut guest)?;
    guest.start_script("pressure")?;
    guest.wait_for_count("rounds", 1)?;
    swaps(&mut guest)?;
    healthy(&guest.report()?)?;
    mark(&mut guest)?;
    leave_with(cx, guest)
}

pub(super) fn after(cx: &Cx<'_>) -> Result<()> {
    let mut guest = take_over(cx, pressure())?;
    unnoticed(&mut guest)?;
    swaps(&mut guest)?;
    let before = read_mib(&mut guest)?;
    // A round that was under way when the host was left, and one that reads everything since then. Each has its own limit.
    guest.wait_for_more("rounds", 1)?;
    guest.wait_for_more("rounds", 1)?;
    has_read(&mut guest, before)?;
    end_database(&mut guest)?;
    guest.stop_script("pressure")?;
    unnoticed(&mut guest)?;
    healthy(&guest.report()?)?;
    guest.is_sound()?;
    guest.power_off_debian()
}
