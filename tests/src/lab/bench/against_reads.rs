//! Two builds of the VMM beside each other: how many reads of its disk a guest gets done under each, by turns in one
//! boot of a host.

use std::time::Duration;

use anyhow::{Result, ensure};
use fdbox_lab::bench::{Drive, READS, Reads, SLOW_BLACKOUT};
use fdbox_lab::device::DISK_DEPTH;
use fdbox_lab::scenario::Devices;
use serde::Serialize;

use super::against::{Other, TURNS};
use super::stats::Spread;
use super::table::Table;
use super::{Bench, values};
use crate::host::{Ending, HostSpec, StageSpec};
use crate::kernel::Flavour;
use crate::tsc::Clocks;

const LIMIT: Duration = Duration::from_secs(1800);
/// While it counts instructions, QEMU stops for good at a guest's access to its disk's registers, once the guest has
/// reads in flight all the time.
const BY_THE_CLOCK: &str = "reads are only measured by the clock, not in instructions";
const DEPTHS: [u32; 2] = [1, DISK_DEPTH];
/// How many figures one VMM's turn gives.
const PER_TURN: usize = Drive::ALL.len() * DEPTHS.len();

/// What both get done on one drive.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) drive: Drive,
    /// How many reads are in flight.
    pub(crate) depth: u32,
    pub(crate) other: String,
    /// Reads a second.
    pub(crate) this: Spread,
    pub(crate) other_reads: Spread,
    /// The median of this build divided by that of the other.
    pub(crate) ratio: f64,
    pub(crate) runs: usize,
}

/// What an update costs a guest whose ring is full of reads of a slow drive.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Slow {
    pub(crate) other: String,
    /// Blackouts of `--binary`.
    pub(crate) this_ns: Spread,
    pub(crate) other_ns: Spread,
    /// The median of this build divided by that of the other.
    pub(crate) ratio: f64,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<(Vec<Row>, Option<Slow>)> {
    let Some(other) = &bench.other else {
        return Ok((Vec::new(), None));
    };
    let what = format!("reads of both, this VMM and {}", other.name);
    if bench.clocks == Clocks::Instructions {
        eprintln!("bench: {what}: {BY_THE_CLOCK}");
        bench.miss(&what, BY_THE_CLOCK);
        return Ok((Vec::new(), None));
    }
    let figures = bench.attempt(&what, || measure(bench, other));
    Ok(figures.map_or((Vec::new(), None), |(reads, blackouts)| {
        (rows(&reads, &other.name), slow(&blackouts, &other.name))
    }))
}

fn measure(bench: &Bench<'_>, other: &Other) -> Result<(Vec<Reads>, Vec<u64>)> {
    let turns = bench.repeats.max(TURNS);
    let turn = other.turn("reads");
    let spec = HostSpec {
        name: "bench-against-reads".to_owned(),
        memory_mib: 2048,
        cpus: 1,
        devices: Devices::None,
        guests: 1,
        cmdline: String::new(),
        with_modules: true,
        stages: vec![StageSpec {
            kernel: Flavour::A,
            modules: vec!["fdbox".to_owned()],
            commands: (0..turns).flat_map(|_| turn.clone()).collect(),
            files: other.files(bench)?,
            then: Ending::PowerOff,
        }],
        files: Vec::new(),
        stage_limit: LIMIT,
        clocks: bench.clocks,
    };
    let record = bench.boot(spec)?;
    let figures: Vec<Reads> = values(&record, READS)?;
    let wanted = turns * 2 * PER_TURN;
    ensure!(
        figures.len() == wanted,
        "{} figures were reported, not {wanted}",
        figures.len()
    );
    Ok((figures, values(&record, SLOW_BLACKOUT)?))
}

/// This VMM's turn is first, then the other's, and so on.
fn slow(blackouts: &[u64], other: &str) -> Option<Slow> {
    let of = |whose: usize| Spread::of(blackouts.iter().skip(whose).step_by(2).copied());
    let (this_ns, other_ns) = (of(0)?, of(1)?);
    Some(Slow {
        other: other.to_owned(),
        this_ns,
        other_ns,
        ratio: this_ns.median as f64 / other_ns.median.max(1) as f64,
    })
}

/// Rows of the figures, this VMM's turn first, then the other's, and so on.
fn rows(figures: &[Reads], other: &str) -> Vec<Row> {
    let kinds = Drive::ALL
        .into_iter()
        .flat_map(|drive| DEPTHS.map(|depth| (drive, depth)));
    let row = |(drive, depth): (Drive, u32)| {
        let of = |whose: usize| -> Vec<u64> {
            let turns = figures.chunks(PER_TURN).skip(whose).step_by(2).flatten();
            let same = turns.filter(|reads| reads.drive == drive && reads.depth == depth);
            same.map(|reads| reads.per_second).collect()
        };
        let runs = of(0).len().min(of(1).len());
        let (this, other_reads) = (Spread::of(of(0))?, Spread::of(of(1))?);
        Some(Row {
            drive,
            depth,
            other: other.to_owned(),
            this,
            other_reads,
            ratio: this.median as f64 / other_reads.median.max(1) as f64,
            runs,
        })
    };
    kinds.filter_map(row).collect()
}

pub(super) fn table(rows: &[Row]) -> Table {
    let heads = [
        "drive",
        "in flight",
        "reads a second",
        "the other's",
        "of it",
        "runs of each",
    ];
    let other = rows.first().map_or("", |row| &row.other);
    let title = format!("Reads of a guest under this VMM, and {other}, in the same boot");
    let mut table = Table::new(&title, &heads);
    let shown = |spread: &Spread| format!("{} ({} to {})", spread.median, spread.min, spread.max);
    for row in rows {
        let drive = match row.drive {
            Drive::Latent => "5 ms a request",
            Drive::Quick => "in the page cache",
        };
        table.add([
            drive.to_owned(),
            row.depth.to_string(),
            shown(&row.this),
            shown(&row.other_reads),
            format!("{:.2}", row.ratio),
            row.runs.to_string(),
        ]);
    }
    table
}

pub(super) fn slow_table(slow: &Slow) -> Table {
    let heads = ["blackout, ms", "the other's, ms", "of it"];
    let title = format!(
        "A ring full of reads of a slow drive, the VMM replaced: this VMM, and {}",
        slow.other
    );
    let mut table = Table::new(&title, &heads);
    table.add([
        slow.this_ns.millis(),
        slow.other_ns.millis(),
        format!("{:.3}", slow.ratio),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_go_to_the_one_whose_turn_it_was() {
        let turn = |times: u64| {
            Drive::ALL.into_iter().flat_map(move |drive| {
                DEPTHS.map(|depth| Reads {
                    drive,
                    depth,
                    per_second: times * u64::from(depth),
                })
            })
        };
        let figures: Vec<Reads> = [30, 10, 50, 20].into_iter().flat_map(turn).collect();
        let rows = rows(&figures, "abc");
        assert_eq!(rows.len(), 4);
        let (one, many) = (&rows[0], &rows[1]);
        assert_eq!((one.drive, one.depth, one.runs), (Drive::Latent, 1, 2));
        assert_eq!((one.this.median, one.other_reads.median), (40, 15));
        assert_eq!((many.depth, many.this.max), (DISK_DEPTH, 50 * 32));
        assert!((one.ratio - 40.0 / 15.0).abs() < 1e-9);
        let text = table(&rows).text();
        assert!(text.contains("abc") && text.contains("2.67"), "{text}");
        let slow = slow(&[3, 20, 5, 40], "abc").unwrap();
        assert_eq!((slow.this_ns.median, slow.other_ns.median), (4, 30));
        assert!(slow_table(&slow).text().contains("0.133"));
    }
}
