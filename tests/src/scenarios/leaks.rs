//! What kmemleak finds, in a kernel that has it.

use std::fs::{read_to_string, write};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
/// kmemleak reports what is older than 5 s (`MSECS_MIN_AGE`) and did not change between two scans. It
/// has nothing to wait for: what it looks for is that nothing happens.
const AGE: Duration = Duration::from_millis(5500);

/// Fails with what kmemleak says when memory was allocated that nothing points at.
pub(crate) fn check() -> Result<()> {
    let scan = || write(KMEMLEAK, "scan").context("Scan: the kernel lacks CONFIG_DEBUG_KMEMLEAK");
    scan()?;
    sleep(AGE);
    scan()?;
    let found = read_to_string(KMEMLEAK)?;
    ensure!(found.is_empty(), "{found}");
    Ok(())
}
