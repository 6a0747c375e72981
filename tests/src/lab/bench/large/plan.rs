//! What is measured: updates that differ in one thing each.

use anyhow::Result;
use fdbox_lab::bench::Layout;

use super::model::Unit;
use crate::bench::Bench;
use crate::bench::floor;
use crate::bench::runs::{Update, updated_in, updated_together};
use crate::bench::twice::Profile;
use crate::bench::update::Case;
use crate::proof::Phase;

/// Of a guest; its kernel has no more.
const VCPUS: &[u32] = &[2, 4, 8];
/// Of four on a host that counts instructions one stood still each time, before its update.
const GUESTS: &[u32] = &[1, 2];
/// By how much less memory a host without guests is measured, too.
const LESS_HOST_MIB: u64 = 3072;

/// The first subjects are equal.
pub(super) const EQUAL: usize = 2;

/// What is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// The guest that others differ from, once more.
    Again(Case),
    One(Case),
    /// So many by one kexec.
    Together(Case, u32),
    /// A host without a guest, with so much memory.
    Bare(u64),
}

/// The subjects, and which of them differ in what.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) host_mib: u64,
    pub(super) subjects: Vec<Subject>,
    /// Each unit, and two subjects that differ in it.
    pub(super) pairs: Vec<(Unit, Subject, Subject)>,
}

impl Plan {
    pub(super) fn of(less_mib: u64, more_mib: u64) -> Self {
        let host_mib = 2048 + 3 * more_mib.max(1024);
        let case = |ram_mib, layout, cpus| Case {
            ram_mib,
            ram_kind: "memfd",
            layout,
            cpus,
        };
        let one = |mib, layout| Subject::One(case(mib, layout, 1));
        let with = |cpus| Subject::One(case(less_mib, Layout::Huge, cpus));
        let together = |guests| Subject::Together(case(less_mib, Layout::Huge, 1), guests);
        let (base, small) = (with(1), one(less_mib, Layout::Sequential));
        let bare = (
            Subject::Bare(host_mib - LESS_HOST_MIB),
            Subject::Bare(host_mib),
        );
        let pairs = vec![
            (Unit::Extent, small, one(less_mib, Layout::Interleaved)),
            (
                Unit::HugeGib,
                one(less_mib, Layout::HugeInterleaved),
                one(more_mib, Layout::HugeInterleaved),
            ),
            (Unit::SmallGib, small, one(more_mib, Layout::Sequential)),
            (Unit::Vcpu, base, with(VCPUS[VCPUS.len() - 1])),
            (
                Unit::Guest,
                together(GUESTS[0]),
                together(GUESTS[GUESTS.len() - 1]),
            ),
            (Unit::HostGib, bare.0, bare.1),
        ];
        let again = Subject::Again(case(less_mib, Layout::Huge, 1));
        let ends = pairs.iter().flat_map(|(_, low, high)| [*low, *high]);
        let between = VCPUS.iter().map(|cpus| with(*cpus));
        let between = between.chain(GUESTS.iter().map(|guests| together(*guests)));
        let mut subjects = vec![base, again];
        for subject in ends.chain(between) {
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        Self {
            host_mib,
            subjects,
            pairs,
        }
    }
}

impl Subject {
    pub(super) fn text(self) -> String {
        match self {
            Self::Again(case) => format!("{}, again", case.text()),
            Self::One(case) => case.text(),
            Self::Together(case, guests) => format!("each of {guests}: {}", case.text()),
            Self::Bare(mib) => format!("no guest, {mib} MiB in the host"),
        }
    }

    pub(super) fn measure(self, bench: &Bench<'_>, host_mib: u64) -> Result<Update> {
        match self {
            Self::Again(case) | Self::One(case) => updated_in(bench, case, host_mib, true),
            Self::Together(case, guests) => updated_together(bench, case, guests, host_mib),
            Self::Bare(mib) => {
                let crossing = floor::measure(bench, Profile::Stock, mib)?;
                let phase = |name: &str, ns| Phase {
                    name: name.to_owned(),
                    ns,
                };
                Ok(Update {
                    total_ns: crossing.total_ns,
                    phases: vec![
                        phase("jump", crossing.total_ns.saturating_sub(crossing.kernel_ns)),
                        phase("kernel-boot", crossing.kernel_ns),
                    ],
                    gap_ns: 0,
                    handover: None,
                })
            }
        }
    }

    /// How much of each unit it has.
    pub(super) fn amounts(self, extents: u64, host_mib: u64) -> Vec<(Unit, f64)> {
        let gib = |mib: u64| mib as f64 / 1024.0;
        let (case, guests) = match self {
            Self::Bare(mib) => return vec![(Unit::HostGib, gib(mib))],
            Self::Again(case) | Self::One(case) => (case, 1),
            Self::Together(case, guests) => (case, guests),
        };
        // The extents of large pages are few, and part of their memory's cost.
        let (memory, extents) = match case.layout.folio_kib() {
            4 => (Unit::SmallGib, extents),
            _ => (Unit::HugeGib, 0),
        };
        vec![
            (Unit::Extent, extents as f64),
            (memory, gib(case.ram_mib * u64::from(guests))),
            (Unit::Vcpu, f64::from(case.cpus * guests)),
            (Unit::Guest, guests.into()),
            (Unit::HostGib, gib(host_mib)),
        ]
    }
}
