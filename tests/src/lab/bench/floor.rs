//! The bare kexec: the lower bound for the duration of any update of a host.

use anyhow::{Context, Result};
use fdbox_lab::bench::{ARRIVED, Arrived, JUMPED, Jumped};
use serde::Serialize;

use super::stats::{Spread, millis};
use super::table::Table;
use super::twice::{Profile, Twice};
use super::{Bench, values};
use crate::run::Record;

/// From the jump to the first instruction of the new kernel's init.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crossing {
    pub(crate) total_ns: u64,
    /// The part of it after the new kernel's clock started.
    pub(crate) kernel_ns: u64,
}

pub(super) fn crossing(bench: &Bench<'_>, record: &Record) -> Result<Crossing> {
    // It was sent twice, more precisely the second time.
    let jumped = values::<Jumped>(record, JUMPED)?;
    let jumped = jumped
        .last()
        .context("The host did not say when it jumped")?;
    let arrived = values::<Arrived>(record, ARRIVED)?;
    let arrived = arrived
        .first()
        .context("The new kernel did not say when it came up")?;
    let ticks = arrived
        .tsc
        .checked_sub(jumped.tsc)
        .context("The TSC was set back by the kexec")?;
    Ok(Crossing {
        total_ns: ticks * 1_000_000 / bench.clocks.tsc_khz(),
        kernel_ns: arrived.boottime_ns,
    })
}

/// The duration of a bare kexec, by profile.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Floor {
    pub(crate) stock_ns: Option<u64>,
    pub(crate) fast_ns: Option<u64>,
    pub(crate) runs: Vec<Run>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) profile: Profile,
    pub(crate) total_ns: Spread,
    /// The part of it before the new kernel's clock started: shutdown, purgatory, decompression.
    pub(crate) before_kernel_ns: Spread,
    pub(crate) kernel_ns: Spread,
}

/// The bare kexec of a host of the usual size, with the stock profile.
pub(super) fn stock(bench: &Bench<'_>) -> Result<Crossing> {
    measure(bench, Profile::Stock, MEMORY_MIB)
}

/// Host memory, in MiB.
const MEMORY_MIB: u64 = 2048;

pub(super) fn run(bench: &Bench<'_>) -> Result<Floor> {
    let mut crossings = [Vec::new(), Vec::new()];
    let profiles = [Profile::Stock, Profile::Fast];
    // In turn: other load on the machine is to affect both alike.
    for round in 0..bench.repeats * 2 {
        for (profile, crossings) in profiles.iter().zip(&mut crossings) {
            let what = format!("floor: {profile:?}, run {}", round + 1);
            let measured = bench.attempt(&what, || measure(bench, *profile, MEMORY_MIB));
            crossings.extend(measured);
        }
    }
    let runs: Vec<Run> = profiles
        .into_iter()
        .zip(&crossings)
        .filter_map(|(profile, crossings)| Run::of(profile, crossings))
        .collect();
    let median = |profile| {
        let run = runs.iter().find(|run| run.profile == profile);
        run.map(|run| run.total_ns.median)
    };
    Ok(Floor {
        stock_ns: median(Profile::Stock),
        fast_ns: median(Profile::Fast),
        runs,
    })
}

/// One bare kexec.
pub(super) fn measure(bench: &Bench<'_>, profile: Profile, memory_mib: u64) -> Result<Crossing> {
    let host = Twice {
        name: "bench-floor",
        memory_mib,
        cpus: 1,
        before: vec!["jump".to_owned()],
        first: "arrive".to_owned(),
        profile,
        with_guest: false,
        with_module: true,
    };
    crossing(bench, &host.run(bench)?)
}

impl Run {
    fn of(profile: Profile, crossings: &[Crossing]) -> Option<Self> {
        let spread = |figure: fn(&Crossing) -> u64| Spread::of(crossings.iter().map(figure));
        Some(Self {
            profile,
            total_ns: spread(|crossing| crossing.total_ns)?,
            before_kernel_ns: spread(|c| c.total_ns.saturating_sub(c.kernel_ns))?,
            kernel_ns: spread(|crossing| crossing.kernel_ns)?,
        })
    }
}

pub(super) fn table(floor: &Floor) -> Table {
    let heads = [
        "profile",
        "jump to init, ms",
        "before the kernel's clock, ms",
        "by the kernel's clock, ms",
    ];
    let mut table = Table::new("The bare kexec", &heads);
    for run in &floor.runs {
        table.add([
            format!("{:?}", run.profile).to_lowercase(),
            run.total_ns.millis(),
            run.before_kernel_ns.millis(),
            run.kernel_ns.millis(),
        ]);
    }
    if let (Some(stock), Some(fast)) = (floor.stock_ns, floor.fast_ns) {
        let share = 100.0 * fast as f64 / stock as f64;
        table.note = format!(
            "Fast is {share:.0} % of stock: {} of {} ms.",
            millis(fast),
            millis(stock)
        );
    }
    table
}
