//! What the blackout of an update of any size takes, by the differences between measured ones.
//!
//! Each unit has two points that differ in it, and its cost in a phase is the difference of that phase between them,
//! less what the units before it explain, divided by the difference in the unit. A difference that is no larger than
//! that of two equal updates is not seen, and bounds what the unit may cost.

use serde::Serialize;

/// What a blackout may grow with, in the order in which their costs are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    /// Of pages of 4 KiB.
    Extent,
    /// A GiB of a guest's, in scattered pages of 2 MiB: with its extents, of which SEAL joins some.
    HugeGib,
    /// The same in pages of 4 KiB.
    SmallGib,
    Vcpu,
    Guest,
    /// A GiB of the host's, whoever uses it.
    HostGib,
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Extent => "extent",
            Self::HugeGib => "GiB in 2 MiB pages",
            Self::SmallGib => "GiB in 4 KiB pages",
            Self::Vcpu => "vCPU",
            Self::Guest => "guest",
            Self::HostGib => "GiB of the host, no guest",
        }
    }
}

/// A measured update: how much of each unit, and ns by phase.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    pub(super) amounts: Vec<(Unit, f64)>,
    pub(super) phases: Vec<f64>,
}

impl Measured {
    fn amount(&self, unit: Unit) -> f64 {
        let found = self.amounts.iter().find(|(other, _)| *other == unit);
        found.map_or(0.0, |(_, amount)| *amount)
    }
}

/// The two points, by their positions, that differ in a unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) unit: Unit,
    pub(super) low: usize,
    pub(super) high: usize,
}

/// What one of a unit costs, in ns by phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Rate {
    pub(crate) unit: Unit,
    /// The positions of its points.
    pub(crate) low: usize,
    pub(crate) high: usize,
    /// 0 in a phase in which no difference was seen.
    pub(crate) ns: Vec<f64>,
    /// What it may cost nevertheless in such a phase; 0 in the others.
    pub(crate) unseen_ns: Vec<f64>,
}

impl Rate {
    /// What so many of them take. A phase that became shorter counts as one that stayed as it was.
    pub(super) fn sum(&self, amount: f64) -> f64 {
        self.ns.iter().map(|ns| ns.max(0.0)).sum::<f64>() * amount
    }

    pub(super) fn unseen(&self, amount: f64) -> f64 {
        self.unseen_ns.iter().sum::<f64>() * amount
    }
}

/// The cost of the unit of each pair. `noise` is the difference between equal updates, by phase.
pub(super) fn rates(points: &[Measured], pairs: &[Pair], noise: &[f64]) -> Vec<Rate> {
    let mut known: Vec<Rate> = Vec::new();
    for Pair { unit, low, high } in pairs {
        let (from, to) = (&points[*low], &points[*high]);
        let step = |unit: Unit| to.amount(unit) - from.amount(unit);
        let differences = (0..noise.len()).map(|phase| {
            let explained = known.iter().map(|rate| rate.ns[phase] * step(rate.unit));
            to.phases[phase] - from.phases[phase] - explained.sum::<f64>()
        });
        let (ns, unseen_ns) = differences
            .zip(noise)
            .map(|(difference, noise)| match difference.abs() > *noise {
                true => (difference / step(*unit), 0.0),
                false => (0.0, noise / step(*unit)),
            })
            .unzip();
        known.push(Rate {
            unit: *unit,
            low: *low,
            high: *high,
            ns,
            unseen_ns,
        });
    }
    known
}

/// What is left of a point, by phase, if it had nothing of any unit.
pub(super) fn fixed(point: &Measured, rates: &[Rate]) -> Vec<f64> {
    let left = |(phase, ns): (usize, &f64)| {
        let grown = rates
            .iter()
            .map(|rate| rate.ns[phase] * point.amount(rate.unit));
        ns - grown.sum::<f64>()
    };
    point.phases.iter().enumerate().map(left).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(amounts: &[(Unit, f64)], phases: &[f64]) -> Measured {
        Measured {
            amounts: amounts.to_vec(),
            phases: phases.to_vec(),
        }
    }

    fn pair(unit: Unit, low: usize, high: usize) -> Pair {
        Pair { unit, low, high }
    }

    #[test]
    fn each_unit_gets_what_the_ones_before_it_leave() {
        // 100 + 2 per extent + 50 per GiB + 30 per vCPU; the second phase grows with guests only.
        let all = |extents: f64, gib: f64, vcpus: f64, guests: f64| {
            let amounts = [
                (Unit::Extent, extents),
                (Unit::HugeGib, gib),
                (Unit::Vcpu, vcpus),
                (Unit::Guest, guests),
            ];
            let first = 100.0 + 2.0 * extents + 50.0 * gib + 30.0 * vcpus;
            point(&amounts, &[first, 10.0 + 7.0 * guests])
        };
        let points = [
            all(10.0, 1.0, 1.0, 1.0),
            all(110.0, 1.0, 1.0, 1.0),
            // More memory, and more extents by chance.
            all(30.0, 5.0, 1.0, 1.0),
            all(10.0, 1.0, 8.0, 1.0),
            all(40.0, 4.0, 4.0, 4.0),
        ];
        let pairs = [
            pair(Unit::Extent, 0, 1),
            pair(Unit::HugeGib, 0, 2),
            pair(Unit::Vcpu, 0, 3),
            pair(Unit::Guest, 0, 4),
        ];
        let rates = rates(&points, &pairs, &[0.0, 0.0]);
        let ns: Vec<&[f64]> = rates.iter().map(|rate| &*rate.ns).collect();
        assert_eq!(ns, [[2.0, 0.0], [50.0, 0.0], [30.0, 0.0], [0.0, 7.0]]);
        assert_eq!(fixed(&points[4], &rates), [100.0, 10.0]);
        assert_eq!(rates[1].sum(4096.0), 50.0 * 4096.0);
        assert_eq!((rates[3].low, rates[3].high), (0, 4));
    }

    #[test]
    fn a_difference_within_the_noise_is_a_bound_and_not_a_cost() {
        let points = [
            point(&[(Unit::Vcpu, 1.0)], &[100.0, 100.0, 100.0]),
            point(&[(Unit::Vcpu, 5.0)], &[104.0, 112.0, 60.0]),
        ];
        let rates = rates(&points, &[pair(Unit::Vcpu, 0, 1)], &[4.0, 4.0, 4.0]);
        assert_eq!(rates[0].ns, [0.0, 3.0, -10.0]);
        assert_eq!(rates[0].unseen_ns, [1.0, 0.0, 0.0]);
        // What became shorter does not pay for what became longer.
        assert_eq!(rates[0].sum(480.0), 1440.0);
        assert_eq!(rates[0].unseen(480.0), 480.0);
    }
}
