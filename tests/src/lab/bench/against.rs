//! Compares two builds of the VMM: this checkout's, and another one. They take turns, so that other
//! load on the machine affects both alike.

mod other;

use std::time::Duration;

use anyhow::{Result, bail};
use fdbox_lab::bench::{Layout, PhaseNs, UPGRADED, UPGRADED_PHASES};
use fdbox_lab::scenario::Devices;
use serde::Serialize;

pub(super) use self::other::Other;

use super::runs::updated;
use super::stats::{Spread, millis};
use super::table::Table;
use super::update::Case;
use super::{Bench, values};
use crate::host::{Ending, HostSpec, StageSpec};
use crate::kernel::Flavour;
use crate::tsc::Clocks;

const LIMIT: Duration = Duration::from_secs(900);
/// Counting makes the emulator several times slower.
const LIMIT_BY_INSTRUCTIONS: Duration = Duration::from_secs(3600);
const SIZES_MIB: &[u64] = &[512];
/// Upgrades of each build in a row, and the minimum number of turns of each build in one boot.
const RUNS: usize = 5;
pub(super) const TURNS: usize = 3;

/// The blackouts of both builds in one kind of update.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) update: &'static str,
    pub(crate) ram_mib: u64,
    pub(crate) ram_kind: &'static str,
    pub(crate) other: String,
    pub(crate) this_ns: Spread,
    pub(crate) other_ns: Spread,
    /// The median of this build divided by that of the other.
    pub(crate) ratio: f64,
    pub(crate) runs: usize,
    /// The phases of a blackout of the VMM, in order.
    pub(crate) phases: Vec<PhaseRow>,
}

/// Medians of a phase. A phase that one of both does not have takes no time there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PhaseRow {
    pub(crate) name: String,
    pub(crate) this_ns: u64,
    pub(crate) other_ns: u64,
}

/// Updates of the VMM.
pub(super) fn run_binary(bench: &Bench<'_>) -> Result<Vec<Row>> {
    rows(bench, |other, ram_kind, ram_mib| {
        let what = format!("upgrade of both: {ram_mib} MiB of {ram_kind}");
        let (figures, phases) =
            bench.attempt(&what, || upgrades(bench, other, ram_kind, ram_mib))?;
        let row = row("the VMM", (ram_mib, ram_kind), &other.name, figures)?;
        Some(Row { phases, ..row })
    })
}

/// Updates of the host.
pub(super) fn run_host(bench: &Bench<'_>) -> Result<Vec<Row>> {
    rows(bench, |other, ram_kind, ram_mib| {
        let figures = updates(bench, other, ram_kind, ram_mib);
        row("the host", (ram_mib, ram_kind), &other.name, figures)
    })
}

fn rows(
    bench: &Bench<'_>,
    measure: impl Fn(&Other, &'static str, u64) -> Option<Row>,
) -> Result<Vec<Row>> {
    let Some(other) = &bench.other else {
        return Ok(Vec::new());
    };
    let kinds = ["guest_memfd", "memfd"].into_iter();
    let cases = kinds.flat_map(|kind| bench.sizes(SIZES_MIB).iter().map(move |mib| (kind, *mib)));
    Ok(cases
        .filter_map(|(kind, mib)| measure(other, kind, mib))
        .collect())
}

/// The figures of this build, and of the other.
type Figures = [Vec<u64>; 2];

/// One boot, in which each build is upgraded to itself.
fn upgrades(
    bench: &Bench<'_>,
    other: &Other,
    ram_kind: &str,
    mib: u64,
) -> Result<(Figures, Vec<PhaseRow>)> {
    let (turns, limit) = match bench.clocks {
        Clocks::Time => (bench.repeats.max(TURNS), LIMIT),
        // They hardly vary.
        Clocks::Instructions => (bench.repeats, LIMIT_BY_INSTRUCTIONS),
    };
    let turn = other.turn(&format!("upgrade {ram_kind} {mib} {RUNS}"));
    let commands = (0..turns).flat_map(|_| turn.clone());
    let spec = HostSpec {
        name: "bench-against".to_owned(),
        memory_mib: 2048 + 2 * mib,
        cpus: 1,
        devices: Devices::None,
        guests: 0,
        cmdline: String::new(),
        with_modules: true,
        stages: vec![StageSpec {
            kernel: Flavour::A,
            modules: vec!["fdbox".to_owned()],
            commands: commands.collect(),
            files: other.files(bench)?,
            then: Ending::PowerOff,
        }],
        files: Vec::new(),
        stage_limit: limit,
        clocks: bench.clocks,
    };
    let record = bench.boot(spec)?;
    let times: Vec<u64> = values(&record, UPGRADED)?;
    if times.len() != 2 * turns * RUNS {
        bail!("{} upgrades were reported", times.len());
    }
    let mut figures = Figures::default();
    for (turn, times) in times.chunks(RUNS).enumerate() {
        figures[turn % 2].extend(times);
    }
    let phases: Vec<Vec<PhaseNs>> = values(&record, UPGRADED_PHASES)?;
    Ok((figures, phase_rows(&phases)))
}

/// The medians of each phase of both: runs of this VMM, then of the other, and so on.
fn phase_rows(phases: &[Vec<PhaseNs>]) -> Vec<PhaseRow> {
    let turns = |whose: usize| phases.chunks(RUNS).skip(whose).step_by(2).flatten();
    let median = |whose: usize, name: &str| {
        let runs = turns(whose).map(|run| {
            let of_name = run.iter().filter(|phase| phase.name == name);
            of_name.map(|phase| phase.ns).sum()
        });
        Spread::of(runs).map_or(0, |spread| spread.median)
    };
    let mut names: Vec<&str> = Vec::new();
    for phase in turns(0).chain(turns(1)).flatten() {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    let row = |name: &str| PhaseRow {
        name: name.to_owned(),
        this_ns: median(0, name),
        other_ns: median(1, name),
    };
    names.into_iter().map(row).collect()
}

/// One host per update, with the same build in the old kernel and in the new one.
fn updates(bench: &Bench<'_>, other: &Other, ram_kind: &'static str, ram_mib: u64) -> Figures {
    let layout = match ram_kind {
        "memfd" => Layout::Huge,
        _ => Layout::Sequential,
    };
    let case = Case {
        ram_mib,
        ram_kind,
        layout,
        cpus: 1,
    };
    let of_other = bench.with_vmm(&other.path, other.environment());
    let mut figures = Figures::default();
    for round in 0..bench.repeats {
        for (at, name) in ["this one", &other.name].into_iter().enumerate() {
            let bench = if at == 0 { bench } else { &of_other };
            let what = format!(
                "update by {name}: {ram_mib} MiB of {ram_kind}, run {}",
                round + 1
            );
            let update = bench.attempt(&what, || updated(bench, case, false));
            figures[at].extend(update.map(|update| update.total_ns));
        }
    }
    bench.take_missing(&of_other);
    figures
}

fn row(
    update: &'static str,
    (ram_mib, ram_kind): (u64, &'static str),
    other: &str,
    [this, others]: Figures,
) -> Option<Row> {
    let runs = this.len().min(others.len());
    let (this_ns, other_ns) = (Spread::of(this)?, Spread::of(others)?);
    Some(Row {
        update,
        ram_mib,
        ram_kind,
        other: other.to_owned(),
        this_ns,
        other_ns,
        ratio: this_ns.median as f64 / other_ns.median.max(1) as f64,
        runs,
        phases: Vec::new(),
    })
}

pub(super) fn table(rows: &[Row]) -> Table {
    let heads = [
        "what is updated",
        "guest",
        "blackout, ms",
        "the other's, ms",
        "of it",
        "the least of it",
        "runs of each",
    ];
    let other = rows.first().map_or("", |row| &row.other);
    let mut table = Table::new(&format!("This VMM, and {other}, in the same run"), &heads);
    for row in rows {
        table.add([
            row.update.to_owned(),
            format!("{} MiB of {}", row.ram_mib, row.ram_kind),
            row.this_ns.millis(),
            row.other_ns.millis(),
            format!("{:.3}", row.ratio),
            format!(
                "{} to {}",
                millis(row.this_ns.min),
                millis(row.other_ns.min)
            ),
            row.runs.to_string(),
        ]);
    }
    table
}

/// The phases of the VMM's blackouts; `None` if there are none.
pub(super) fn phase_table(rows: &[Row]) -> Option<Table> {
    let heads = ["phase", "guest", "median, ms", "the other's, ms"];
    let mut table = Table::new("Where the blackout of both goes", &heads);
    for row in rows {
        for phase in &row.phases {
            table.add([
                phase.name.clone(),
                format!("{} MiB of {}", row.ram_mib, row.ram_kind),
                millis(phase.this_ns),
                millis(phase.other_ns),
            ]);
        }
    }
    rows.iter()
        .any(|row| !row.phases.is_empty())
        .then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_those_of_either_in_turn() {
        let run = |phases: &[(&str, u64)]| -> Vec<PhaseNs> {
            let phase = |(name, ns): &(&str, u64)| PhaseNs {
                name: (*name).to_owned(),
                ns: *ns,
            };
            phases.iter().map(phase).collect()
        };
        let this = [("save", 3), ("jump", 1), ("jump", 1)];
        let turns = [
            vec![run(&this); RUNS],
            vec![run(&[("save", 4), ("exec", 5)]); RUNS],
        ];
        let rows = phase_rows(&turns.concat());
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (&*row.name, row.this_ns, row.other_ns))
            .collect();
        assert_eq!(rows, [("save", 3, 4), ("jump", 2, 0), ("exec", 0, 5)]);
    }

    #[test]
    fn a_row_needs_figures_of_both_and_tells_their_ratio() {
        let row = |figures| row("the VMM", (512, "memfd"), "abc", figures);
        assert!(row([vec![1], vec![]]).is_none());
        assert!(row([vec![], vec![1]]).is_none());
        let both = row([vec![11, 10, 12], vec![20, 22]]).unwrap();
        assert_eq!((both.this_ns.median, both.other_ns.median), (11, 21));
        assert_eq!(both.runs, 2);
        assert!((both.ratio - 11.0 / 21.0).abs() < 1e-9);
        assert!(table(&[both]).text().contains("0.524"));
    }
}
