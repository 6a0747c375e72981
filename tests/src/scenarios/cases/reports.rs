//! What must be true of a guest according to the reports of its witness.

use anyhow::{Result, ensure};
use fdbox_lab::witness::Report;

use crate::check::equal;

/// The conditions that every report of the witness must meet.
pub(super) fn healthy(report: &Report) -> Result<()> {
    equal(
        "The number of bad pages",
        (report.pages_bad, &report.bad),
        (0, &Vec::new()),
    )?;
    ensure!(
        !report.counter_went_back,
        "A clock went back: {:?}",
        report.backwards
    );
    ensure!(
        report.kernel_warnings == 0,
        "The guest's kernel warned: {:?}",
        report.warnings
    );
    Ok(())
}

/// The guest is the same one, and has continued.
pub(super) fn same_guest(before: &Report, after: &Report) -> Result<()> {
    healthy(after)?;
    equal("The guest's boot_id", &after.boot_id, &before.boot_id)?;
    let mut both = after.counters.iter().zip(&before.counters);
    ensure!(
        both.all(|(now, then)| now > then),
        "A CPU of the guest's stands still: {:?} samples, {:?} before",
        after.counters,
        before.counters
    );
    ensure!(
        after.uptime_ns > before.uptime_ns,
        "The guest's clock stands still"
    );
    Ok(())
}
