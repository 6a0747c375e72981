//! Compares a memfd in a box with an equal one in LUO: the same boot, the same kexec.

use std::time::Duration;

use anyhow::{Result, bail};
use fdbox_lab::bench::{Keeper, Layout, MEMFD_AFTER, MEMFD_BEFORE, MemfdAfter, MemfdBefore};
use fdbox_lab::scenario::Devices;
use serde::Serialize;

use super::stats::{Spread, bytes, millis};
use super::table::Table;
use super::{Bench, PROGRAM, values};
use crate::host::{Ending, HostSpec, StageSpec};
use crate::kernel::Flavour;
use crate::run::Record;

const LIMIT: Duration = Duration::from_secs(300);
const SIZES_MIB: &[u64] = &[128, 512, 1024];

/// Ours and LUO's, of one size and layout, by which of them was first.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) keeper: Keeper,
    pub(crate) mib: u64,
    pub(crate) layout: Layout,
    pub(crate) folio_kib: u64,
    /// Whether it was filled and handed over before the other one.
    pub(crate) first: bool,
    pub(crate) runs: usize,
    /// SEAL, or PRESERVE_FD.
    pub(crate) keep_ns: Spread,
    /// The same, including the calls before it: create the box and PUT_FD, or CREATE_SESSION.
    pub(crate) hand_over_ns: Spread,
    /// GET_FD, or RETRIEVE_FD.
    pub(crate) take_ns: Spread,
    /// The same, including the calls before it: UNSEAL, or RETRIEVE_SESSION.
    pub(crate) take_back_ns: Spread,
    pub(crate) touch_ns: Spread,
    pub(crate) metadata_bytes: Spread,
    pub(crate) entries: Spread,
    /// The memory used by handing it over, including metadata.
    pub(crate) keep_kib: Spread,
    /// The memory used by retrieving it.
    pub(crate) take_kib: Spread,
}

const LAYOUTS: [Layout; 3] = [Layout::Sequential, Layout::Interleaved, Layout::Huge];

/// Measures every size in every layout, in both orders.
pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for mib in bench.sizes(SIZES_MIB) {
        for layout in LAYOUTS {
            for first in [Keeper::Fdbox, Keeper::Luo] {
                let mut pairs = Vec::new();
                for round in 0..bench.repeats {
                    let (pages, who) = (layout.name(), first.name());
                    let what = format!("memfd: {mib} MiB {pages}, {who} first, run {}", round + 1);
                    let measured = bench.attempt(&what, || {
                        pairs_of(&bench.boot(spec(*mib, layout, first, bench))?)
                    });
                    pairs.extend(measured.into_iter().flatten());
                }
                for keeper in [Keeper::Fdbox, Keeper::Luo] {
                    rows.extend(row(&pairs, keeper, layout, first));
                }
            }
        }
    }
    Ok(rows)
}

fn spec(mib: u64, layout: Layout, first: Keeper, bench: &Bench<'_>) -> HostSpec {
    let first = first.name();
    let stage = |kernel, command, then| StageSpec {
        kernel,
        modules: vec!["fdbox".to_owned()],
        commands: vec![command],
        files: Vec::new(),
        then,
    };
    let before = format!(
        "{PROGRAM} bench memfd before {mib} {} {first}",
        layout.name()
    );
    let after = format!("{PROGRAM} bench memfd after {mib} {first}");
    HostSpec {
        name: "bench-memfd".to_owned(),
        // Both memfds, and as much again: neither must have to search for free pages.
        memory_mib: 2048 + 3 * mib,
        cpus: 1,
        cmdline: String::new(),
        files: vec![bench.scenarios()],
        with_modules: true,
        devices: Devices::None,
        stages: vec![
            stage(Flavour::A, before, Ending::Kexec),
            stage(Flavour::B, after, Ending::PowerOff),
        ],
        stage_limit: LIMIT,
        guests: 0,
        clocks: bench.clocks,
    }
}

type Pair = (MemfdBefore, MemfdAfter);

/// What each of the two did before the kexec, paired with what it did after it.
fn pairs_of(record: &Record) -> Result<Vec<Pair>> {
    let before: Vec<MemfdBefore> = values(record, MEMFD_BEFORE)?;
    let after: Vec<MemfdAfter> = values(record, MEMFD_AFTER)?;
    let mut pairs = Vec::new();
    for before in before {
        let Some(after) = after.iter().find(|after| after.keeper == before.keeper) else {
            bail!("{} gave no memfd back", before.keeper.name());
        };
        pairs.push((before, after.clone()));
    }
    if pairs.len() != 2 {
        bail!("{} memfds were measured, not 2", pairs.len());
    }
    Ok(pairs)
}

fn row(pairs: &[Pair], keeper: Keeper, layout: Layout, first: Keeper) -> Option<Row> {
    let mine: Vec<&Pair> = pairs
        .iter()
        .filter(|(before, _)| before.keeper == keeper)
        .collect();
    let spread = |figure: fn(&Pair) -> u64| Spread::of(mine.iter().map(|pair| figure(pair)));
    Some(Row {
        keeper,
        mib: mine.first().map_or(0, |(before, _)| before.mib),
        layout,
        folio_kib: layout.folio_kib(),
        first: keeper == first,
        runs: mine.len(),
        keep_ns: spread(|(before, _)| before.keep_ns)?,
        hand_over_ns: spread(|(before, _)| before.prepare_ns + before.keep_ns)?,
        take_ns: spread(|(_, after)| after.take_ns)?,
        take_back_ns: spread(|(_, after)| after.open_ns + after.take_ns)?,
        touch_ns: spread(|(_, after)| after.touch_ns)?,
        metadata_bytes: spread(|(before, _)| before.metadata_bytes)?,
        entries: spread(|(before, _)| before.entries)?,
        keep_kib: spread(|(before, _)| before.free_fell_kib.max(0) as u64)?,
        take_kib: spread(|(_, after)| after.free_fell_kib.max(0) as u64)?,
    })
}

pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(
        "One memfd, kept by FDBox and by LUO",
        &[
            "MiB",
            "pages",
            "order",
            "keeper",
            "SEAL or PRESERVE_FD, ms",
            "with box or session",
            "GET_FD or RETRIEVE_FD, ms",
            "with box or session",
            "read each page, ms",
            "metadata",
            "entries",
            "memory taken by keeping it",
            "by taking it back",
        ],
    );
    for row in rows {
        table.add([
            row.mib.to_string(),
            format!("{} KiB {}", row.folio_kib, row.layout.name()),
            if row.first { "first" } else { "second" }.to_owned(),
            row.keeper.name().to_owned(),
            row.keep_ns.millis(),
            millis(row.hand_over_ns.median),
            row.take_ns.millis(),
            millis(row.take_back_ns.median),
            row.touch_ns.millis(),
            bytes(row.metadata_bytes.median),
            row.entries.median.to_string(),
            bytes(row.keep_kib.median * 1024),
            bytes(row.take_kib.median * 1024),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Value;

    fn record(keepers_after: &[Keeper]) -> Record {
        let value = |name: &str, value: serde_json::Value| Value {
            at: Duration::ZERO,
            name: name.to_owned(),
            value,
        };
        let mut record = Record::default();
        for (keeper, keep_ns) in [(Keeper::Fdbox, 10), (Keeper::Luo, 30)] {
            let before = MemfdBefore {
                keeper,
                mib: 128,
                fill_ns: 1,
                prepare_ns: 2,
                keep_ns,
                huge_kib: 0,
                free_fell_kib: -4,
                metadata_bytes: 100,
                entries: 3,
            };
            let before = serde_json::to_value(before).unwrap();
            record.values.push(value(MEMFD_BEFORE, before));
        }
        for keeper in keepers_after {
            let after = MemfdAfter {
                keeper: *keeper,
                open_ns: 3,
                take_ns: 4,
                free_fell_kib: 8,
                touch_ns: 5,
                finish_ns: 6,
            };
            let after = serde_json::to_value(after).unwrap();
            record.values.push(value(MEMFD_AFTER, after));
        }
        record
    }

    #[test]
    fn both_halves_of_a_keeper_make_its_row() {
        let pairs = pairs_of(&record(&[Keeper::Luo, Keeper::Fdbox])).unwrap();
        let row = row(&pairs, Keeper::Fdbox, Layout::Huge, Keeper::Luo).unwrap();
        assert_eq!((row.keep_ns.median, row.hand_over_ns.median), (10, 12));
        assert_eq!((row.take_ns.median, row.take_back_ns.median), (4, 7));
        assert_eq!((row.first, row.runs, row.folio_kib), (false, 1, 2048));
        assert_eq!((row.keep_kib.median, row.take_kib.median), (0, 8));
        assert!(table(&[row]).text().contains("fdbox"));
    }

    #[test]
    fn a_memfd_that_did_not_come_back_is_no_figure() {
        assert!(pairs_of(&record(&[Keeper::Luo])).is_err());
        assert!(pairs_of(&Record::default()).is_err());
    }
}
