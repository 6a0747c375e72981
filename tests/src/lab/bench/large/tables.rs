//! The figures, for people.

use super::model::Unit;
use super::{Large, ns_of};
use crate::bench::stats::{bytes, millis};
use crate::bench::table::Table;

/// How many a large host has, and whether they are part of its sum. All memory is in pages of 2 MiB: pages of 4 KiB,
/// and a million extents of them, would be instead, and the host's own memory delays a bare kexec, too.
const LARGE: &[(Unit, f64, bool)] = &[
    (Unit::HugeGib, 4096.0, true),
    (Unit::Vcpu, 480.0, true),
    (Unit::Guest, 200.0, true),
    (Unit::SmallGib, 4096.0, false),
    (Unit::Extent, 1e6, false),
    (Unit::HostGib, 4096.0, false),
];

/// The same for one unit.
pub(super) fn target(unit: Unit) -> Option<(f64, bool)> {
    let found = LARGE.iter().find(|(other, ..)| *other == unit);
    found.map(|(_, amount, counts)| (*amount, *counts))
}

pub(in crate::bench) fn points(large: &Large) -> Table {
    let heads = ["", "guest", "extents", "metadata", "blackout, ms"];
    let phases: Vec<&str> = large.phases.iter().map(String::as_str).collect();
    let heads = [&heads[..], &phases].concat();
    let mut table = Table::new(
        "Updates that differ in one thing, instructions as ms",
        &heads,
    );
    let none = || "-".to_owned();
    for (number, point) in large.points.iter().enumerate() {
        let cells = [
            (number + 1).to_string(),
            point.what.clone(),
            point
                .extents
                .map_or_else(none, |extents| extents.to_string()),
            point.metadata_bytes.map_or_else(none, bytes),
            millis(point.total_ns),
        ];
        let of = |name: &String| millis(ns_of(&point.phases, name));
        table.add(cells.into_iter().chain(large.phases.iter().map(of)));
    }
    let noise = large.noise_ns.iter().map(|ns| millis(*ns as u64));
    let noise: Vec<String> = large
        .phases
        .iter()
        .cloned()
        .zip(noise)
        .map(|(name, ms)| format!("{name} {ms}"))
        .collect();
    table.note = format!("Equal updates differ by, in ms: {}.", noise.join(", "));
    table
}

pub(in crate::bench) fn costs(large: &Large) -> Table {
    let phases: Vec<&str> = large.phases.iter().map(String::as_str).collect();
    let heads = [
        &["unit", "points"],
        phases.as_slice(),
        &["all", "times", "ms", "unseen, ms"],
    ]
    .concat();
    let mut table = Table::new(
        "Cost of a unit in each phase of the blackout, thousands of instructions",
        &heads,
    );
    for rate in &large.rates {
        let Some((amount, counts)) = target(rate.unit) else {
            continue;
        };
        let cell = |(ns, unseen): (&f64, &f64)| match *unseen > 0.0 {
            true => format!("< {}", thousands(*unseen)),
            false => thousands(*ns),
        };
        let times = match counts {
            true => format!("{amount}"),
            false => format!("({amount})"),
        };
        let cells = [
            rate.unit.name().to_owned(),
            format!("{}, {}", rate.low + 1, rate.high + 1),
        ];
        let ends = [
            thousands(rate.sum(1.0)),
            times,
            format!("{:.1}", rate.sum(amount) / 1e6),
            format!("{:.1}", rate.unseen(amount) / 1e6),
        ];
        let by_phase = rate.ns.iter().zip(&rate.unseen_ns).map(cell);
        table.add(cells.into_iter().chain(by_phase).chain(ends));
    }
    table.note = format!(
        "Cost = (second point - first point - what the units above explain) / difference in the unit; \"<\": no more than \
         equal updates differ. 4 TiB in 2 MiB pages, 480 vCPUs, 200 guests: {:.1} ms fixed \
         and the units without parentheses, {:.1} ms in all, and at most {:.1} ms that are not seen.",
        large.fixed_ns.iter().sum::<f64>() / 1e6,
        large.sum_ns / 1e6,
        large.unseen_ns / 1e6,
    );
    table
}

/// With three significant digits.
fn thousands(ns: f64) -> String {
    let thousands = ns / 1e3;
    let digits = match thousands.abs() {
        ..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{thousands:.digits$}")
}
