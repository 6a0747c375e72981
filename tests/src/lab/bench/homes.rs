//! The same guest through each home of boxes that crosses a kexec, on the same kernels: with the module, and through LUO
//! without it.

use anyhow::Result;
use fdbox_lab::bench::{Keeper, Layout};
use serde::Serialize;

use super::Bench;
use super::runs::{Update, bare, updated_through};
use super::stats::{Spread, millis};
use super::table::Table;
use super::update::{Case, median};
use crate::proof::Phase;

const SIZES_MIB: &[u64] = &[512];
const HOMES: [Keeper; 2] = [Keeper::Fdbox, Keeper::Luo];

/// The figures of one guest and one home.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) home: Keeper,
    pub(crate) ram_mib: u64,
    pub(crate) folio_kib: u64,
    pub(crate) blackout_ns: Spread,
    /// The longest time for which the guest's own clock did not advance.
    pub(crate) guest_gap_ns: u64,
    /// The bare kexec of the same host.
    pub(crate) floor_ns: Option<u64>,
    /// Those of the run with the median blackout.
    pub(crate) phases: Vec<Phase>,
    pub(crate) runs: usize,
}

/// The runs of one case.
#[derive(Debug, Default)]
struct Figures {
    floors: Vec<u64>,
    updates: [Vec<Update>; HOMES.len()],
}

/// LUO keeps memfds only.
fn cases(bench: &Bench<'_>) -> Vec<Case> {
    let case = |ram_mib: &u64, layout| Case {
        ram_mib: *ram_mib,
        ram_kind: "memfd",
        layout,
        cpus: 1,
    };
    let sizes = bench.sizes(SIZES_MIB).iter();
    sizes
        .flat_map(|mib| [Layout::Sequential, Layout::Huge].map(|layout| case(mib, layout)))
        .collect()
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let cases = cases(bench);
    let mut figures: Vec<Figures> = cases.iter().map(|_| Figures::default()).collect();
    // In turn: other load on the machine is to affect all alike.
    for round in 0..bench.repeats {
        for (case, figures) in cases.iter().zip(&mut figures) {
            let what = |of: &str| {
                let (mib, kib) = (case.ram_mib, case.layout.folio_kib());
                format!("{of}: {mib} MiB in {kib} KiB pages, run {}", round + 1)
            };
            let floor = bench.attempt(&what("kexec"), || bare(bench, *case));
            figures
                .floors
                .extend(floor.map(|(crossing, _)| crossing.total_ns));
            for (home, updates) in HOMES.iter().zip(&mut figures.updates) {
                let what = what(&format!("through {}", home.name()));
                let update = bench.attempt(&what, || updated_through(bench, *case, *home));
                updates.extend(update);
            }
        }
    }
    let rows = cases.iter().zip(&figures);
    Ok(rows
        .flat_map(|(case, figures)| figures.rows(*case))
        .collect())
}

impl Figures {
    fn rows(&self, case: Case) -> Vec<Row> {
        let floor_ns = median(self.floors.iter().copied());
        let homes = HOMES.iter().zip(&self.updates);
        homes
            .filter_map(|(home, updates)| row(case, *home, updates, floor_ns))
            .collect()
    }
}

fn row(case: Case, home: Keeper, updates: &[Update], floor_ns: Option<u64>) -> Option<Row> {
    let blackout_ns = Spread::of(updates.iter().map(|update| update.total_ns))?;
    let middle = updates
        .iter()
        .min_by_key(|update| update.total_ns.abs_diff(blackout_ns.median))?;
    Some(Row {
        home,
        ram_mib: case.ram_mib,
        folio_kib: case.layout.folio_kib(),
        blackout_ns,
        guest_gap_ns: median(updates.iter().map(|update| update.gap_ns))?,
        floor_ns,
        phases: middle.phases.clone(),
        runs: updates.len(),
    })
}

pub(super) fn table(rows: &[Row]) -> Table {
    let mut names: Vec<&str> = Vec::new();
    for phase in rows.iter().flat_map(|row| &row.phases) {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    let heads = [
        "guest",
        "home",
        "blackout, ms",
        "the guest's gap, ms",
        "bare kexec, ms",
        "of it",
    ];
    let heads = [&heads[..], &names].concat();
    let mut table = Table::new("The same guest through each home, ms", &heads);
    for row in rows {
        let floor = row.floor_ns.map_or_else(|| "-".to_owned(), millis);
        let ratio = row.floor_ns.map_or_else(
            || "-".to_owned(),
            |floor| format!("{:.2}", row.blackout_ns.median as f64 / floor.max(1) as f64),
        );
        let cells = [
            format!("{} MiB of memfd, {} KiB pages", row.ram_mib, row.folio_kib),
            row.home.name().to_owned(),
            row.blackout_ns.millis(),
            millis(row.guest_gap_ns),
            floor,
            ratio,
        ];
        let of = |name: &&str| {
            let phases = row.phases.iter().filter(|phase| phase.name == *name);
            millis(phases.map(|phase| phase.ns).sum())
        };
        table.add(cells.into_iter().chain(names.iter().map(of)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(total_ns: u64, phase: &str) -> Update {
        Update {
            total_ns,
            phases: vec![Phase {
                name: phase.to_owned(),
                ns: total_ns / 2,
            }],
            gap_ns: total_ns,
            handover: None,
        }
    }

    #[test]
    fn a_home_without_figures_has_no_row_and_each_is_compared_with_the_bare_kexec() {
        let case = Case {
            ram_mib: 512,
            ram_kind: "memfd",
            layout: Layout::Huge,
            cpus: 1,
        };
        let mut figures = Figures {
            floors: vec![10_000_000, 30_000_000, 20_000_000],
            ..Figures::default()
        };
        figures.updates[1] = vec![update(60_000_000, "b"), update(40_000_000, "a")];
        let rows = figures.rows(case);
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].home, rows[0].floor_ns),
            (Keeper::Luo, Some(20_000_000))
        );
        figures.updates[0] = vec![update(20_000_000, "c")];
        let text = table(&figures.rows(case)).text();
        for part in ["fdbox", "luo", "| 1.00", "| 2.50", "| b", "| c"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
