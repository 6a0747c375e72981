//! Guests that use disk and network, one alone and four in one kexec: what is visible from outside.
//!
//! The hosts are those of `cargo lab demo`. Their init does more before the guests run than the
//! init of the other updates measured here.

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;

use super::Bench;
use super::floor;
use super::stats::Spread;
use super::update::{Row, median};
use crate::proof::{self, Update};
use crate::run::Record;
use crate::scenario_host::Group;

/// Memory of each guest.
const RAM_MIB: u64 = 128;
/// (number of guests, kind of host, scenario).
const CASES: &[(u8, HostKind, &str)] = &[
    (1, HostKind::Guest, "devices/across-a-kexec"),
    (4, HostKind::Guests, "guests/four-in-one-kexec"),
];

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let mut updates = vec![Vec::new(); CASES.len()];
    let mut floors = Vec::new();
    for round in 0..bench.repeats {
        let what = |of: &str| format!("{of}, run {}", round + 1);
        floors.extend(bench.attempt(&what("kexec"), || floor::stock(bench)));
        for ((guests, kind, scenario), updates) in CASES.iter().zip(&mut updates) {
            let what = what(&format!("update, {guests} guests with disk and network"));
            let measured = bench.attempt(&what, || measure(bench, *guests, *kind, scenario));
            updates.extend(measured.unwrap_or_default());
        }
    }
    let floor_ns = median(floors.iter().map(|floor| floor.total_ns));
    let rows = CASES.iter().zip(&updates);
    Ok(rows
        .filter_map(|((guests, ..), updates)| row(*guests, updates, floor_ns))
        .collect())
}

fn measure(bench: &Bench<'_>, guests: u8, kind: HostKind, scenario: &str) -> Result<Vec<Update>> {
    let group = Group {
        kind,
        kernels: 2,
        names: vec![scenario],
        environment: format!(
            "LAB_GUESTS={guests} LAB_GUEST_RAM=guest_memfd LAB_GUEST_MIB={RAM_MIB}"
        ),
        guests,
        more_memory_mib: 0,
        debug: false,
        other: None,
        // As in the figures of docs/benchmarks.md.
        cpus: Some(1),
    };
    let record = bench.judge(&group.prepare(bench.lab)?)?;
    let updates = updates(&record, kind)?;
    ensure!(
        updates.len() == usize::from(guests),
        "{} guests of {guests} were updated",
        updates.len()
    );
    Ok(updates)
}

fn updates(record: &Record, kind: HostKind) -> Result<Vec<Update>> {
    let wrong: Vec<&str> = record
        .scenarios
        .iter()
        .filter_map(|stage| stage.error.as_deref())
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    if kind.has_fleet() {
        let guests = proof::of_guests(record)?;
        return Ok(guests.into_iter().map(|(_, update)| update).collect());
    }
    let update = proof::updates(record)?.pop();
    Ok(vec![update.context("No update was seen")?])
}

fn row(guests: u8, updates: &[Update], floor_ns: Option<u64>) -> Option<Row> {
    let blackout_ns = Spread::of(updates.iter().map(|update| update.blackout.total_ns))?;
    let middle = updates
        .iter()
        .min_by_key(|update| update.blackout.total_ns.abs_diff(blackout_ns.median))?;
    let network = updates.iter().filter_map(|update| update.traffic.as_ref());
    let silence = network.map(|traffic| traffic.outside.ping.largest_gap.as_nanos() as u64);
    Some(Row {
        ram_mib: RAM_MIB,
        ram_kind: match guests {
            1 => "guest_memfd".to_owned(),
            _ => "guest_memfd, one of memfd".to_owned(),
        },
        folio_kib: 4,
        vcpus: 1,
        guests: guests.into(),
        blackout_ns,
        guest_gap_ns: median(updates.iter().map(|update| update.after.largest_gap_ns))?,
        network_gap_ns: median(silence),
        phases: middle.blackout.phases.clone(),
        floor_ns,
        luo_retrieve_ns: None,
        luo_kexec_ns: None,
        copy_ns: None,
        metadata_bytes: None,
        metadata_extents: None,
        luo_metadata_bytes: None,
        runs: updates.len() / usize::from(guests),
    })
}
