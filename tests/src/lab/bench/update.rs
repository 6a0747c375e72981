//! The update of a host under a guest, compared with the bare kexec, LUO and a copy of the memory.

use std::collections::BTreeMap;

use anyhow::Result;
use fdbox_lab::bench::{Copied, Layout};
use serde::Serialize;

use super::Bench;
use super::floor::Crossing;
use super::runs::{Luo, Update, bare, updated, with_luo};
use super::stats::{Spread, bytes, millis};
use super::table::Table;
use crate::proof::Phase;

/// A guest to be updated under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) ram_mib: u64,
    pub(super) ram_kind: &'static str,
    pub(super) layout: Layout,
    pub(super) cpus: u32,
}

impl Case {
    pub(super) fn text(&self) -> String {
        let (mib, kind, pages, cpus) = (self.ram_mib, self.ram_kind, self.layout, self.cpus);
        let scattered = match pages.is_interleaved() {
            true => "single ",
            false => "",
        };
        format!(
            "{mib} MiB of {kind}, {scattered}{} KiB pages, {cpus} CPU",
            pages.folio_kib()
        )
    }
}

const SIZES_MIB: &[u64] = &[128, 512, 1024, 2048];
/// The size at which a guest with more CPUs is measured, too.
const MORE_CPUS_MIB: u64 = 512;

/// Every size with every kind of memory, and one guest with more CPUs.
fn cases(bench: &Bench<'_>) -> Vec<Case> {
    let kinds = [
        ("guest_memfd", Layout::Sequential),
        ("memfd", Layout::Sequential),
        ("memfd", Layout::Huge),
    ];
    let case = |ram_mib, (ram_kind, layout), cpus| Case {
        ram_mib,
        ram_kind,
        layout,
        cpus,
    };
    let mut cases = Vec::new();
    for mib in bench.sizes(SIZES_MIB) {
        cases.extend(kinds.map(|kind| case(*mib, kind, 1)));
        if *mib == MORE_CPUS_MIB {
            cases.push(case(*mib, kinds[0], 4));
        }
    }
    cases
}

/// One guest's figures, all of them medians.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) ram_mib: u64,
    pub(crate) ram_kind: String,
    pub(crate) folio_kib: u64,
    pub(crate) vcpus: u32,
    pub(crate) guests: u32,
    pub(crate) blackout_ns: Spread,
    /// The longest time for which the guest's own clock did not advance.
    pub(crate) guest_gap_ns: u64,
    pub(crate) network_gap_ns: Option<u64>,
    /// Those of the run with the median blackout.
    pub(crate) phases: Vec<Phase>,
    /// The bare kexec of the same host.
    pub(crate) floor_ns: Option<u64>,
    /// RETRIEVE_FD of a memfd of the same size and pages.
    pub(crate) luo_retrieve_ns: Option<u64>,
    /// The bare kexec while LUO keeps that memfd.
    pub(crate) luo_kexec_ns: Option<u64>,
    /// Writing the memory to a file in memory, and reading it back.
    pub(crate) copy_ns: Option<u64>,
    pub(crate) metadata_bytes: Option<u64>,
    pub(crate) metadata_extents: Option<u64>,
    pub(crate) luo_metadata_bytes: Option<u64>,
    pub(crate) runs: usize,
}

#[derive(Debug, Default)]
struct Figures {
    floors: BTreeMap<u64, Vec<Option<(Crossing, Copied)>>>,
    luo: BTreeMap<(u64, Layout), Vec<Option<Luo>>>,
    updates: BTreeMap<Case, Vec<Update>>,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let cases = cases(bench);
    let mut figures = Figures::default();
    // In turn: other load on the machine is to affect all alike.
    for round in 0..bench.repeats {
        for case in &cases {
            figures.measure(bench, *case, round);
        }
    }
    Ok(cases.iter().filter_map(|case| figures.row(*case)).collect())
}

impl Figures {
    /// Measures this case once more. A baseline shared by several cases is measured once per round.
    fn measure(&mut self, bench: &Bench<'_>, case: Case, round: usize) {
        let what = |of: &str| format!("{of}: {}, run {}", case.text(), round + 1);
        let floors = self.floors.entry(case.ram_mib).or_default();
        if floors.len() <= round {
            floors.push(bench.attempt(&what("kexec and copy"), || bare(bench, case)));
        }
        let luo = self.luo.entry((case.ram_mib, case.layout)).or_default();
        if luo.len() <= round {
            luo.push(bench.attempt(&what("LUO"), || with_luo(bench, case)));
        }
        let updates = self.updates.entry(case).or_default();
        let ask = updates.iter().all(|update| update.handover.is_none());
        updates.extend(bench.attempt(&what("update"), || updated(bench, case, ask)));
    }

    fn row(&self, case: Case) -> Option<Row> {
        let updates = self.updates.get(&case)?;
        let floors = self.floors.get(&case.ram_mib)?.iter().flatten();
        let luo = self.luo.get(&(case.ram_mib, case.layout))?.iter().flatten();
        let blackout_ns = Spread::of(updates.iter().map(|update| update.total_ns))?;
        let middle = updates
            .iter()
            .min_by_key(|update| update.total_ns.abs_diff(blackout_ns.median))?;
        let handover = updates.iter().find_map(|update| update.handover);
        let of_floors = |figure: fn(&(Crossing, Copied)) -> u64| median(floors.clone().map(figure));
        let of_luo = |figure: fn(&Luo) -> u64| median(luo.clone().map(figure));
        Some(Row {
            ram_mib: case.ram_mib,
            ram_kind: case.ram_kind.to_owned(),
            folio_kib: case.layout.folio_kib(),
            vcpus: case.cpus,
            guests: 1,
            blackout_ns,
            guest_gap_ns: median(updates.iter().map(|update| update.gap_ns))?,
            network_gap_ns: None,
            phases: middle.phases.clone(),
            floor_ns: of_floors(|(floor, _)| floor.total_ns),
            luo_retrieve_ns: of_luo(|luo| luo.retrieve_ns),
            luo_kexec_ns: of_luo(|luo| luo.crossing.total_ns),
            copy_ns: of_floors(|(_, copied)| copied.out_ns + copied.in_ns),
            metadata_bytes: handover.map(|handover| handover.bytes),
            metadata_extents: handover.map(|handover| handover.extents),
            luo_metadata_bytes: of_luo(|luo| luo.metadata_bytes),
            runs: updates.len(),
        })
    }
}

pub(super) fn median(figures: impl Iterator<Item = u64>) -> Option<u64> {
    Spread::of(figures).map(|spread| spread.median)
}

impl Row {
    /// The time that LUO would need for the same guest: its kexec, and retrieving the memory.
    pub(super) fn luo_ns(&self) -> Option<u64> {
        Some(self.luo_kexec_ns? + self.luo_retrieve_ns?)
    }

    /// The same with a copy of the memory.
    pub(super) fn copied_ns(&self) -> Option<u64> {
        Some(self.floor_ns? + self.copy_ns?)
    }

    pub(super) fn memory(&self) -> String {
        format!("{}, {} KiB pages", self.ram_kind, self.folio_kib)
    }

    fn guest(&self) -> String {
        let cpus = if self.vcpus == 1 { "CPU" } else { "CPUs" };
        let one = format!(
            "{} MiB of {}, {} {cpus}",
            self.ram_mib,
            self.memory(),
            self.vcpus
        );
        match self.guests {
            1 => one,
            many => format!("each of {many}: {one}"),
        }
    }
}

pub(super) fn table(rows: &[Row]) -> Table {
    let heads = [
        "guest",
        "blackout, ms",
        "the guest's gap, ms",
        "the network's, ms",
        "bare kexec, ms",
        "of it",
        "LUO: kexec, ms",
        "LUO: RETRIEVE_FD, ms",
        "copy out and in, ms",
        "metadata",
        "LUO's",
    ];
    let mut table = Table::new("The host is updated under a guest", &heads);
    let optional_millis = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), millis);
    let size = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), bytes);
    for row in rows {
        let ratio = row
            .floor_ns
            .map(|floor| row.blackout_ns.median as f64 / floor.max(1) as f64);
        table.add([
            row.guest(),
            row.blackout_ns.millis(),
            millis(row.guest_gap_ns),
            optional_millis(row.network_gap_ns),
            optional_millis(row.floor_ns),
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            optional_millis(row.luo_kexec_ns),
            optional_millis(row.luo_retrieve_ns),
            optional_millis(row.copy_ns),
            size(row.metadata_bytes),
            size(row.luo_metadata_bytes),
        ]);
    }
    table
}

/// The phases of the blackouts.
pub(super) fn phases(rows: &[Row]) -> Table {
    let mut names: Vec<&str> = Vec::new();
    for phase in rows.iter().flat_map(|row| &row.phases) {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    let heads = [&["guest"], names.as_slice()].concat();
    let mut table = Table::new("The blackout by phase, ms", &heads);
    for row in rows {
        let of = |name: &&str| {
            let phases = row.phases.iter().filter(|phase| phase.name == *name);
            millis(phases.map(|phase| phase.ns).sum())
        };
        table.add([row.guest()].into_iter().chain(names.iter().map(of)));
    }
    table
}
