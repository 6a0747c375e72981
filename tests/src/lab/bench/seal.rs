//! What the preparation of an update costs the running guest.

use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::bench::{WORKED, Worked};
use fdbox_lab::scenario::Devices;
use serde::Serialize;

use super::table::Table;
use super::{Bench, PROGRAM, values};
use crate::host::{Ending, HostSpec, StageSpec};
use crate::kernel::Flavour;
use crate::tsc::Clocks;

const LIMIT: Duration = Duration::from_secs(300);
const RAM_MIB: u64 = 512;
/// Seconds without other work, next to another program, and next to preparations, in turn.
const PERIOD: u64 = 20;
const QUICK_PERIOD: u64 = 3;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) ram_kind: String,
    pub(crate) ram_mib: u64,
    /// By how much less work the guest did in the same time.
    pub(crate) slowdown_percent: f64,
    pub(crate) runs: Vec<f64>,
    /// The same while another program kept the host's second CPU busy.
    pub(crate) other_percent: f64,
    pub(crate) other_runs: Vec<f64>,
    /// Updates that were prepared and cancelled in all runs.
    pub(crate) prepared: u64,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in ["guest_memfd", "memfd"] {
        let rounds = 0..bench.repeats;
        let worked: Vec<Worked> = rounds
            .filter_map(|round| {
                let what = format!("seal: a guest on {kind}, run {}", round + 1);
                bench.attempt(&what, || measure(bench, kind))
            })
            .collect();
        rows.extend(row(kind, &worked));
    }
    Ok(rows)
}

/// A host with one CPU for the guest and one for the preparations.
fn measure(bench: &Bench<'_>, kind: &str) -> Result<Worked> {
    let guest = bench.guest()?;
    let period = if bench.quick { QUICK_PERIOD } else { PERIOD };
    let stage = |kernel, commands, files| StageSpec {
        kernel,
        modules: vec!["fdbox".to_owned()],
        commands,
        files,
        then: Ending::PowerOff,
    };
    let command = format!("{PROGRAM} bench work {kind} {RAM_MIB} {period}");
    let spec = HostSpec {
        name: "bench-seal".to_owned(),
        memory_mib: 2048 + 2 * RAM_MIB,
        cpus: 2,
        cmdline: String::new(),
        files: vec![bench.scenarios()],
        with_modules: true,
        devices: Devices::None,
        stages: vec![
            stage(Flavour::A, vec![command], guest.of_stage(0)),
            // A kernel to load; it is never entered.
            stage(Flavour::B, Vec::new(), Vec::new()),
        ],
        stage_limit: LIMIT,
        guests: 0,
        clocks: Clocks::Time,
    };
    let worked = values::<Worked>(&bench.boot(spec)?, WORKED)?;
    worked.first().copied().context("The guest did no work")
}

fn row(kind: &str, worked: &[Worked]) -> Option<Row> {
    let runs: Vec<f64> = worked.iter().map(slowdown_percent).collect();
    let other_runs: Vec<f64> = worked.iter().map(other_percent).collect();
    Some(Row {
        ram_kind: kind.to_owned(),
        ram_mib: RAM_MIB,
        slowdown_percent: median(&runs)?,
        other_percent: median(&other_runs)?,
        other_runs,
        prepared: worked.iter().map(|worked| worked.prepared).sum(),
        runs,
    })
}

fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let lower = sorted.get(sorted.len().checked_sub(1)? / 2)?;
    let upper = sorted.get(sorted.len() / 2)?;
    Some((lower + upper) / 2.0)
}

fn slowdown_percent(worked: &Worked) -> f64 {
    slower_than_in_quiet(worked, worked.busy_units, worked.busy_ns)
}

fn other_percent(worked: &Worked) -> f64 {
    slower_than_in_quiet(worked, worked.other_units, worked.other_ns)
}

fn slower_than_in_quiet(worked: &Worked, units: u64, ns: u64) -> f64 {
    let rate = |units: u64, ns: u64| units as f64 / ns.max(1) as f64;
    let quiet = rate(worked.quiet_units, worked.quiet_ns);
    100.0 * (1.0 - rate(units, ns) / quiet.max(f64::MIN_POSITIVE))
}

pub(super) fn table(rows: &[Row]) -> Table {
    let heads = [
        "guest",
        "slower by",
        "runs",
        "updates prepared",
        "beside another program",
        "its runs",
    ];
    let mut table = Table::new("A guest that works while updates are prepared", &heads);
    for row in rows {
        let list = |runs: &[f64]| {
            let runs: Vec<String> = runs.iter().map(|run| format!("{run:.1} %")).collect();
            runs.join(", ")
        };
        table.add([
            format!("{} MiB of {}", row.ram_mib, row.ram_kind),
            format!("{:.1} %", row.slowdown_percent),
            list(&row.runs),
            row.prepared.to_string(),
            format!("{:.1} %", row.other_percent),
            list(&row.other_runs),
        ]);
    }
    table
}

/// The worst of them: the documented limit holds for all.
pub(super) fn worst(rows: &[Row]) -> Option<f64> {
    let worst = rows.iter().map(|row| row.slowdown_percent);
    worst.max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_done_in_the_same_time_is_slower() {
        let worked = |busy_units| Worked {
            quiet_units: 1000,
            quiet_ns: 10,
            other_units: 950,
            other_ns: 10,
            busy_units,
            busy_ns: 20,
            prepared: 3,
        };
        assert!((slowdown_percent(&worked(2000))).abs() < 1e-9);
        assert!((slowdown_percent(&worked(1000)) - 50.0).abs() < 1e-9);
        let runs = [worked(1000), worked(2000), worked(1800)];
        let row = row("memfd", &runs).unwrap();
        assert!((row.slowdown_percent - 10.0).abs() < 1e-9);
        assert!((row.other_percent - 5.0).abs() < 1e-9);
        assert_eq!(row.prepared, 9);
        assert!(super::row("memfd", &[]).is_none());
    }
}
