//! The hosts that yield the figures of an update and of its baselines.

use anyhow::{Context, Result, ensure};
use fdbox_lab::bench::{
    COPIED, Copied, HANDOVER, Handover, Keeper, MEMFD_AFTER, MEMFD_BEFORE, MemfdAfter, MemfdBefore,
    RESUMED, WITNESS,
};
use fdbox_lab::witness::Report as Witness;

use super::floor::{self, Crossing};
use super::twice::{Profile, Twice};
use super::update::Case;
use super::{Bench, values};
use crate::proof::{Phase, Resume};
use crate::run::Record;

/// One update.
#[derive(Debug, Clone)]
pub(super) struct Update {
    pub(super) total_ns: u64,
    pub(super) phases: Vec<Phase>,
    pub(super) gap_ns: u64,
    pub(super) handover: Option<Handover>,
}

/// What LUO needed for the same memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Luo {
    pub(super) crossing: Crossing,
    pub(super) retrieve_ns: u64,
    pub(super) metadata_bytes: u64,
}

/// The same for a guest and for its baselines, because the duration of a kernel's boot depends on
/// it.
fn memory_mib(ram_mib: u64) -> u64 {
    2048 + 3 * ram_mib
}

/// The kexec of a host with nothing to hand over, after copying as much memory as the guest has.
pub(super) fn bare(bench: &Bench<'_>, case: Case) -> Result<(Crossing, Copied)> {
    let host = Twice {
        name: "bench-bare",
        memory_mib: memory_mib(case.ram_mib),
        cpus: 1,
        before: vec![format!("copy {}", case.ram_mib), "jump".to_owned()],
        first: "arrive".to_owned(),
        profile: Profile::Stock,
        with_guest: true,
        with_module: true,
    };
    let record = host.run(bench)?;
    let copied = values::<Copied>(&record, COPIED)?;
    let copied = copied.first().context("Nothing was copied")?;
    Ok((floor::crossing(bench, &record)?, *copied))
}

pub(super) fn with_luo(bench: &Bench<'_>, case: Case) -> Result<Luo> {
    let (mib, pages) = (case.ram_mib, case.layout.name());
    let host = Twice {
        name: "bench-luo",
        memory_mib: memory_mib(mib),
        cpus: 1,
        before: vec![format!("luo {mib} {pages}"), "jump".to_owned()],
        first: format!("luo-{mib}"),
        profile: Profile::Stock,
        with_guest: true,
        with_module: true,
    };
    let record = host.run(bench)?;
    let before = values::<MemfdBefore>(&record, MEMFD_BEFORE)?;
    let after = values::<MemfdAfter>(&record, MEMFD_AFTER)?;
    let (before, after) = before
        .first()
        .zip(after.first())
        .context("LUO kept nothing")?;
    Ok(Luo {
        crossing: floor::crossing(bench, &record)?,
        retrieve_ns: after.take_ns,
        metadata_bytes: before.metadata_bytes,
    })
}

pub(super) fn updated(bench: &Bench<'_>, case: Case, ask: bool) -> Result<Update> {
    updated_in(bench, case, memory_mib(case.ram_mib), ask)
}

/// The same in a host with so much memory.
pub(super) fn updated_in(
    bench: &Bench<'_>,
    case: Case,
    memory_mib: u64,
    ask: bool,
) -> Result<Update> {
    let words = format!(
        "update {} {} {} {} {}",
        case.ram_kind,
        case.ram_mib,
        case.cpus,
        case.layout.name(),
        if ask { "ask" } else { "" }
    );
    let host = Twice {
        name: "bench-update",
        memory_mib,
        cpus: 1,
        before: vec![words],
        first: "resume".to_owned(),
        profile: Profile::Stock,
        with_guest: true,
        with_module: true,
    };
    update_of(&host.run(bench)?, 1)
}

/// The update of so many such guests by one kexec: that of the one with the longest blackout.
pub(super) fn updated_together(
    bench: &Bench<'_>,
    case: Case,
    guests: u32,
    memory_mib: u64,
) -> Result<Update> {
    let (kind, mib, pages) = (case.ram_kind, case.ram_mib, case.layout.name());
    let host = Twice {
        name: "bench-fleet",
        memory_mib,
        cpus: 1,
        before: vec![format!("fleet {guests} {kind} {mib} {pages}")],
        first: format!("fleet-{guests}"),
        profile: Profile::Stock,
        with_guest: true,
        with_module: true,
    };
    update_of(&host.run_with(bench, guests)?, guests as usize)
}

/// The same through a home of boxes, on the same kernels.
pub(super) fn updated_through(bench: &Bench<'_>, case: Case, home: Keeper) -> Result<Update> {
    let (kind, mib, cpus) = (case.ram_kind, case.ram_mib, case.cpus);
    let host = Twice {
        name: "bench-homes",
        memory_mib: memory_mib(mib),
        cpus: 1,
        before: vec![format!("update {kind} {mib} {cpus} {}", case.layout.name())],
        first: match home {
            Keeper::Fdbox => "resume".to_owned(),
            Keeper::Luo => "resume-luo".to_owned(),
        },
        profile: Profile::Stock,
        with_guest: true,
        with_module: home == Keeper::Fdbox,
    };
    update_of(&host.run(bench)?, 1)
}

/// The longest of the updates of so many guests.
fn update_of(record: &Record, guests: usize) -> Result<Update> {
    let resumed = values::<Resume>(record, RESUMED)?;
    let witness = values::<Witness>(record, WITNESS)?;
    ensure!(
        resumed.len() == guests && witness.len() == guests,
        "{} of {guests} guests arrived",
        witness.len()
    );
    let handover = values::<Handover>(record, HANDOVER)?.into_iter().next();
    let updates = resumed
        .into_iter()
        .zip(&witness)
        .map(|(resumed, witness)| one_update(resumed, witness, handover))
        .collect::<Result<Vec<_>>>()?;
    let longest = updates.into_iter().max_by_key(|update| update.total_ns);
    longest.context("No guest arrived")
}

fn one_update(resumed: Resume, witness: &Witness, handover: Option<Handover>) -> Result<Update> {
    ensure!(witness.pages_bad == 0, "Bad pages: {:?}", witness.bad);
    ensure!(
        !witness.counter_went_back,
        "A clock of the guest's went back: {:?}",
        witness.backwards
    );
    let blackout = resumed.blackout.context("The VMM reports no blackout")?;
    Ok(Update {
        total_ns: blackout.total_ns,
        phases: blackout.phases,
        gap_ns: witness.largest_gap_ns,
        handover,
    })
}
