//! Lifeboats that end in the kernel that started them, well or not.

use anyhow::{Result, ensure};
use fdbox_lab::scenario::HostKind;

use super::{Cx, Scenario};
use crate::boat::{
    Boat, MOST_OF_IT_KIB, Spec, both_beat, comes_back, free_kib, is_kept, of_none, set_online,
    started,
};
use crate::check::equal;

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "lifeboat/two-cpus",
    about: "a boat of two CPUs beats beside its host, parks, and gives CPUs and memory back",
    host: HostKind::LifeboatOneBoot,
    stages: &[two_cpus],
}];

const BOTH: [u32; 2] = [1, 2];

/// Runs `act` while these CPUs are offline, and has them all again in the end, and the memory.
fn lent(cpus: &[u32], act: impl FnOnce(&Boat) -> Result<()>) -> Result<()> {
    let boat = Boat::open()?;
    for cpu in cpus {
        set_online(*cpu, false)?;
    }
    let free = free_kib()?;
    act(&boat)?;
    equal("What is left of the boat", boat.status()?, of_none())?;
    let now = free_kib()?;
    ensure!(
        now + MOST_OF_IT_KIB > free,
        "The boat's memory did not come back: {free} KiB were free, {now} are"
    );
    cpus.iter().try_for_each(|cpu| comes_back(*cpu))
}

fn two_cpus(_: &Cx<'_>) -> Result<()> {
    lent(&BOTH, |boat| {
        started(boat, &Spec::new("stay", &BOTH), 0)?;
        both_beat(boat)?;
        BOTH.iter().try_for_each(|cpu| is_kept(*cpu))?;
        boat.stop()
    })
}
