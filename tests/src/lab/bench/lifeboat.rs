//! An update with a lifeboat beside the ordinary update of the same guest and the bare kexec.

use anyhow::{Context, Result};
use fdbox_lab::bench::Layout;
use fdbox_lab::scenario::HostKind;
use serde::Serialize;

use super::Bench;
use super::runs::{self, bare, updated};
use super::stats::{Spread, millis};
use super::table::Table;
use super::update::{Case, median};
use crate::proof::{self, Lifeboat, Phase};
use crate::scenario_host::Group;

const SIZES_MIB: &[u64] = &[128, 1024];

/// The figures of one guest; medians where there is no spread.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) ram_mib: u64,
    /// The bare kexec of a host without a boat.
    pub(crate) floor_ns: Option<u64>,
    /// The ordinary update: the blackout, and the longest time for which the guest's clock did not advance.
    pub(crate) ordinary_blackout_ns: Option<u64>,
    pub(crate) ordinary_gap_ns: Option<u64>,
    /// The same in an update with a lifeboat, over both moves.
    pub(crate) gap_ns: Spread,
    /// The kexec of the host, beside which the guest computed.
    pub(crate) host_kexec_ns: u64,
    /// How many times longer that is, in each run.
    pub(crate) kexec_to_gap: f64,
    pub(crate) io_gap_ns: u64,
    /// Those of the run with the median gap.
    pub(crate) moves: Vec<Move>,
    pub(crate) runs: usize,
}

/// A move of the guest.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Move {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) stop_to_run_ns: u64,
    pub(crate) phases: Vec<Phase>,
}

/// The runs of one guest.
#[derive(Debug, Default)]
struct Figures {
    floors: Vec<u64>,
    ordinary: Vec<runs::Update>,
    in_boat: Vec<Lifeboat>,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let sizes = bench.sizes(SIZES_MIB);
    let mut figures: Vec<Figures> = sizes.iter().map(|_| Figures::default()).collect();
    // In turn: other load on the machine is to affect all alike.
    for round in 0..bench.repeats {
        for (mib, figures) in sizes.iter().zip(&mut figures) {
            figures.measure(bench, *mib, round);
        }
    }
    let rows = sizes.iter().zip(&figures);
    Ok(rows
        .filter_map(|(mib, figures)| figures.row(*mib))
        .collect())
}

impl Figures {
    fn measure(&mut self, bench: &Bench<'_>, ram_mib: u64, round: usize) {
        let what = |of: &str| format!("{of}: {ram_mib} MiB of memfd, run {}", round + 1);
        // The memory of a guest that a boat can carry.
        let case = Case {
            ram_mib,
            ram_kind: "memfd",
            layout: Layout::Sequential,
            cpus: 1,
        };
        let floor = bench.attempt(&what("kexec"), || bare(bench, case));
        self.floors
            .extend(floor.map(|(crossing, _)| crossing.total_ns));
        let ordinary = bench.attempt(&what("update"), || updated(bench, case, false));
        self.ordinary.extend(ordinary);
        let in_boat = bench.attempt(&what("lifeboat"), || in_boat(bench, ram_mib));
        self.in_boat.extend(in_boat);
    }

    fn row(&self, ram_mib: u64) -> Option<Row> {
        let gap = |run: &Lifeboat| run.guest_largest_gap_ns;
        let gap_ns = Spread::of(self.in_boat.iter().map(gap))?;
        let middle = self.in_boat.iter();
        let middle = middle.min_by_key(|run| gap(run).abs_diff(gap_ns.median))?;
        let moves = middle.handovers.iter().cloned();
        let thousandths = |run: &Lifeboat| run.host_kexec_ns.saturating_mul(1000) / gap(run).max(1);
        Some(Row {
            ram_mib,
            floor_ns: median(self.floors.iter().copied()),
            ordinary_blackout_ns: median(self.ordinary.iter().map(|run| run.total_ns)),
            ordinary_gap_ns: median(self.ordinary.iter().map(|run| run.gap_ns)),
            gap_ns,
            host_kexec_ns: median(self.in_boat.iter().map(|run| run.host_kexec_ns))?,
            kexec_to_gap: median(self.in_boat.iter().map(thousandths))? as f64 / 1000.0,
            io_gap_ns: median(self.in_boat.iter().map(|run| run.io_gap_ns))?,
            moves: moves
                .map(|moved| Move {
                    from: moved.from,
                    to: moved.to,
                    stop_to_run_ns: moved.stop_to_run_ns,
                    phases: moved.phases,
                })
                .collect(),
            runs: self.in_boat.len(),
        })
    }
}

/// One update with a lifeboat: that of `cargo lab demo --lifeboat`.
fn in_boat(bench: &Bench<'_>, ram_mib: u64) -> Result<Lifeboat> {
    let group = Group {
        // With room for the largest guest, for all alike.
        kind: HostKind::LargeGuestLifeboat,
        kernels: 2,
        names: vec!["lifeboat/update"],
        environment: format!("LAB_GUEST_MIB={ram_mib}"),
        guests: 1,
        more_memory_mib: 0,
        debug: false,
        other: None,
        cpus: None,
    };
    let record = bench.judge(&group.prepare(bench.lab)?)?;
    let update = proof::updates(&record)?.pop();
    let update = update.context("No update was seen")?;
    update.lifeboat.context("The guest was in no lifeboat")
}

fn guest(row: &Row) -> String {
    format!("{} MiB of memfd", row.ram_mib)
}

pub(super) fn table(rows: &[Row]) -> Table {
    let heads = [
        "guest",
        "bare kexec, ms",
        "ordinary update: blackout, ms",
        "the guest's gap, ms",
        "with a lifeboat: the host's kexec, ms",
        "the guest's gap, ms",
        "kexec to gap",
        "its devices rested, ms",
    ];
    let mut table = Table::new(
        "The host is updated while the guest runs in a lifeboat",
        &heads,
    );
    let optional = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), millis);
    for row in rows {
        table.add([
            guest(row),
            optional(row.floor_ns),
            optional(row.ordinary_blackout_ns),
            optional(row.ordinary_gap_ns),
            millis(row.host_kexec_ns),
            row.gap_ns.millis(),
            format!("{:.1}", row.kexec_to_gap),
            millis(row.io_gap_ns),
        ]);
    }
    table
}

/// The phases of both moves.
pub(super) fn phases(rows: &[Row]) -> Table {
    let moves = || {
        rows.iter()
            .flat_map(|row| row.moves.iter().map(move |moved| (row, moved)))
    };
    let mut names: Vec<&str> = Vec::new();
    for phase in moves().flat_map(|(_, moved)| &moved.phases) {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    let heads = [&["guest", "move", "stop to run"], names.as_slice()].concat();
    let mut table = Table::new("Each move by phase, ms", &heads);
    for (row, moved) in moves() {
        let way = format!("{} to {}", moved.from, moved.to);
        let of = |name: &&str| {
            let phases = moved.phases.iter().filter(|phase| phase.name == *name);
            millis(phases.map(|phase| phase.ns).sum())
        };
        let cells = [guest(row), way, millis(moved.stop_to_run_ns)];
        table.add(cells.into_iter().chain(names.iter().map(of)));
    }
    table
}

impl Row {
    /// Its gap beside what it would be otherwise, for a chart.
    pub(super) fn beside(&self) -> Vec<(String, u64)> {
        let mib = self.ram_mib;
        let bars = [
            ("gap, ordinary update", self.ordinary_gap_ns),
            ("bare kexec, no guest", self.floor_ns),
            (
                "kexec of the host, with a lifeboat",
                Some(self.host_kexec_ns),
            ),
            ("gap, with a lifeboat", Some(self.gap_ns.median)),
        ];
        let bars = bars.into_iter();
        bars.filter_map(|(name, ns)| Some((format!("{mib} MiB: {name}"), ns?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::Handover;

    fn in_boat(gap_ms: u64, kexec_ms: u64) -> Lifeboat {
        let moved = |from: &str, to: &str| Handover {
            from: from.to_owned(),
            to: to.to_owned(),
            stop_to_run_ns: gap_ms * 900_000,
            phases: vec![Phase {
                name: format!("{from}-phase"),
                ns: gap_ms * 300_000,
            }],
        };
        Lifeboat {
            handovers: vec![moved("host", "lifeboat"), moved("lifeboat", "host")],
            guest_largest_gap_ns: gap_ms * 1_000_000,
            frames_largest_gap_ns: None,
            host_kexec_ns: kexec_ms * 1_000_000,
            io_gap_ns: 1,
            vcpu_time_in_boat_ns: 1,
        }
    }

    #[test]
    fn a_guest_is_compared_with_the_kexec_of_its_own_runs() {
        let mut figures = Figures::default();
        assert!(figures.row(128).is_none(), "no run, no row");
        figures.in_boat = vec![in_boat(100, 2000), in_boat(300, 2100), in_boat(200, 2400)];
        let row = figures.row(128).unwrap();
        assert_eq!((row.gap_ns.median, row.runs), (200_000_000, 3));
        // In each run by itself: 20, 7 and 12.
        assert!((row.kexec_to_gap - 12.0).abs() < 0.001, "{row:?}");
        assert_eq!(row.moves[0].stop_to_run_ns, 180_000_000);
        let text = table(std::slice::from_ref(&row)).text();
        assert!(text.contains("| 12.0"), "{text}");
        let text = phases(&[row]).text();
        for part in ["host to lifeboat", "lifeboat to host", "host-phase", "60.0"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
