//! What a blackout grows with, counted in instructions: guests that differ in one thing each, and what that makes for a
//! large host.

mod model;
mod plan;
mod tables;

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use self::model::{Measured, Pair, Rate, Unit, fixed, rates};
use self::plan::{EQUAL, Plan, Subject};
use self::tables::target;
pub(super) use self::tables::{costs, points};
use super::Bench;
use super::runs::Update;
use super::update::median;
use crate::proof::Phase;

/// Less and more memory of a guest.
const SIZES_MIB: &[u64] = &[256, 1024];
const QUICK_SIZES_MIB: &[u64] = &[128, 256];

/// What one kind of update took.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    pub(crate) what: String,
    pub(crate) guests: u32,
    pub(crate) host_mib: u64,
    /// Of one guest alone.
    pub(crate) metadata_bytes: Option<u64>,
    pub(crate) extents: Option<u64>,
    pub(crate) total_ns: u64,
    /// The medians of each.
    pub(crate) phases: Vec<Phase>,
    #[serde(skip)]
    amounts: Vec<(Unit, f64)>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Large {
    pub(crate) points: Vec<Point>,
    /// Of the costs below.
    pub(crate) phases: Vec<String>,
    /// By how much equal updates differ, by phase.
    pub(crate) noise_ns: Vec<f64>,
    pub(crate) fixed_ns: Vec<f64>,
    pub(crate) rates: Vec<Rate>,
    /// For the large host: what is fixed and all units together, and what may be unseen.
    pub(crate) sum_ns: f64,
    pub(crate) unseen_ns: f64,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Option<Large>> {
    let usual = match bench.quick {
        true => QUICK_SIZES_MIB,
        false => SIZES_MIB,
    };
    let sizes = match bench.ram {
        [less, .., more] => [*less, *more],
        _ => [usual[0], usual[1]],
    };
    let plan = Plan::of(sizes[0], sizes[1]);
    let mut updates: BTreeMap<Subject, Vec<Update>> = BTreeMap::new();
    for round in 0..bench.repeats {
        for subject in &plan.subjects {
            let what = format!("large: {}, run {}", subject.text(), round + 1);
            let update = bench.attempt(&what, || subject.measure(bench, plan.host_mib));
            updates.entry(*subject).or_default().extend(update);
        }
    }
    Ok(Large::of(&plan, &updates))
}

impl Point {
    fn of(subject: Subject, updates: &[Update], host_mib: u64) -> Option<Self> {
        let phases = &updates.first()?.phases;
        let medians = phases.iter().map(|Phase { name, .. }| {
            let ns = updates.iter().map(|update| ns_of(&update.phases, name));
            let ns = median(ns)?;
            let name = name.clone();
            Some(Phase { name, ns })
        });
        let handover = updates.iter().find_map(|update| update.handover);
        let extents = handover.map(|handover| handover.extents);
        let (guests, host_mib) = match subject {
            Subject::Bare(mib) => (0, mib),
            Subject::Together(_, guests) => (guests, host_mib),
            Subject::Again(_) | Subject::One(_) => (1, host_mib),
        };
        Some(Self {
            what: subject.text(),
            guests,
            host_mib,
            metadata_bytes: handover.map(|handover| handover.bytes),
            extents,
            total_ns: median(updates.iter().map(|update| update.total_ns))?,
            phases: medians.collect::<Option<_>>()?,
            amounts: subject.amounts(extents.unwrap_or(0), host_mib),
        })
    }

    fn measured(&self, phases: &[String]) -> Measured {
        let ns = phases.iter().map(|name| ns_of(&self.phases, name) as f64);
        Measured {
            amounts: self.amounts.clone(),
            phases: ns.collect(),
        }
    }
}

fn ns_of(phases: &[Phase], name: &str) -> u64 {
    let named = phases.iter().filter(|phase| phase.name == name);
    named.map(|phase| phase.ns).sum()
}

impl Large {
    fn of(plan: &Plan, updates: &BTreeMap<Subject, Vec<Update>>) -> Option<Self> {
        let points = plan.subjects.iter().filter_map(|subject| {
            let point = Point::of(*subject, updates.get(subject)?, plan.host_mib)?;
            Some((*subject, point))
        });
        let (subjects, points): (Vec<Subject>, Vec<Point>) = points.unzip();
        let position = |wanted| subjects.iter().position(|subject| *subject == wanted);
        if subjects.first() != plan.subjects.first() {
            // All others differ from that one.
            return None;
        }
        let base = points.first()?;
        let phases: Vec<String> = base.phases.iter().map(|phase| phase.name.clone()).collect();
        let equal = plan.subjects[..EQUAL].iter();
        let equal: Vec<&Update> = equal.filter_map(|of| updates.get(of)).flatten().collect();
        let noise = |name: &String| {
            let ns = || equal.iter().map(|update| ns_of(&update.phases, name));
            ns().max().zip(ns().min()).map_or(0, |(max, min)| max - min) as f64
        };
        let noise_ns: Vec<f64> = phases.iter().map(noise).collect();
        let pairs = plan.pairs.iter().filter_map(|(unit, low, high)| {
            Some(Pair {
                unit: *unit,
                low: position(*low)?,
                high: position(*high)?,
            })
        });
        let pairs: Vec<Pair> = pairs.collect();
        let measured: Vec<Measured> = points.iter().map(|point| point.measured(&phases)).collect();
        let rates = rates(&measured, &pairs, &noise_ns);
        let fixed_ns = fixed(&measured[0], &rates);
        let counted = |figure: fn(&Rate, f64) -> f64| -> f64 {
            let counts = rates.iter().filter_map(|rate| {
                let (amount, counts) = target(rate.unit)?;
                counts.then(|| figure(rate, amount))
            });
            counts.sum()
        };
        Some(Self {
            sum_ns: fixed_ns.iter().sum::<f64>() + counted(Rate::sum),
            unseen_ns: counted(Rate::unseen),
            points,
            phases,
            noise_ns,
            fixed_ns,
            rates,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdbox_lab::bench::{Handover, Layout};

    /// An update whose phases follow a law: what is fixed, and a cost for each unit.
    fn update(subject: Subject, host_mib: u64) -> Update {
        let extents = match subject {
            Subject::One(case) if case.layout == Layout::Interleaved => 1000,
            _ => 10,
        };
        let amounts = subject.amounts(extents, host_mib);
        let of = |wanted| {
            let found = amounts.iter().find(|(unit, _)| *unit == wanted);
            found.map_or(0.0, |(_, amount)| *amount)
        };
        let phase = |name: &str, ns: f64| Phase {
            name: name.to_owned(),
            ns: ns as u64,
        };
        let save = 1e6 + 2e6 * of(Unit::Vcpu) + 3e6 * of(Unit::Guest);
        let boot = 5e6 + 1e6 * of(Unit::HostGib) + 4e3 * of(Unit::Extent) + 2e6 * of(Unit::HugeGib);
        let phases = vec![phase("save", save), phase("kernel-boot", boot)];
        Update {
            total_ns: phases.iter().map(|phase| phase.ns).sum(),
            phases,
            gap_ns: 0,
            handover: Some(Handover {
                bytes: 8 * extents,
                extents,
                pages: 1,
            }),
        }
    }

    fn updates(plan: &Plan) -> BTreeMap<Subject, Vec<Update>> {
        let subjects = plan.subjects.iter();
        subjects
            .map(|subject| (*subject, vec![update(*subject, plan.host_mib)]))
            .collect()
    }

    #[test]
    fn the_costs_and_the_sum_are_those_of_the_law() {
        let plan = Plan::of(256, 1024);
        let large = Large::of(&plan, &updates(&plan)).unwrap();
        let cost = |unit| {
            let rate = large.rates.iter().find(|rate| rate.unit == unit).unwrap();
            rate.ns
                .iter()
                .map(|ns| ns.round() as i64)
                .collect::<Vec<_>>()
        };
        assert_eq!(cost(Unit::Extent), [0, 4000]);
        assert_eq!(cost(Unit::Vcpu), [2_000_000, 0]);
        assert_eq!(cost(Unit::Guest), [3_000_000, 0]);
        assert_eq!(cost(Unit::HugeGib), [0, 2_000_000]);
        assert_eq!(cost(Unit::HostGib), [0, 1_000_000]);
        // Fixed, the memory, the vCPUs and the guests; neither small pages nor the host's own memory.
        let sum = 6e6 + 4096.0 * 2e6 + 480.0 * 2e6 + 200.0 * 3e6;
        assert_eq!(large.sum_ns.round(), sum);
        let (points, costs) = (points(&large).text(), costs(&large).text());
        assert!(points.contains("single 4 KiB pages"), "{points}");
        assert!(
            costs.contains("| vCPU") && costs.contains("(4096)"),
            "{costs}"
        );
    }

    #[test]
    fn a_point_that_was_not_measured_costs_only_its_unit() {
        let plan = Plan::of(256, 1024);
        let mut updates = updates(&plan);
        let (_, _, most_guests) = plan
            .pairs
            .iter()
            .find(|(unit, ..)| *unit == Unit::Guest)
            .unwrap();
        updates.insert(*most_guests, Vec::new());
        let large = Large::of(&plan, &updates).unwrap();
        assert_eq!(large.points.len(), plan.subjects.len() - 1);
        assert!(large.rates.iter().all(|rate| rate.unit != Unit::Guest));
        updates.insert(plan.subjects[0], Vec::new());
        assert!(Large::of(&plan, &updates).is_none());
    }

    #[test]
    fn equal_updates_that_differ_hide_what_is_smaller() {
        let plan = Plan::of(256, 1024);
        let mut updates = updates(&plan);
        updates.get_mut(&plan.subjects[1]).unwrap()[0].phases[0].ns += 50_000_000;
        let large = Large::of(&plan, &updates).unwrap();
        assert_eq!(large.noise_ns, [5e7, 0.0]);
        let vcpu = large
            .rates
            .iter()
            .find(|rate| rate.unit == Unit::Vcpu)
            .unwrap();
        assert_eq!((vcpu.ns[0], vcpu.unseen_ns[0]), (0.0, 5e7 / 7.0));
        assert!(costs(&large).text().contains("< "));
    }
}
