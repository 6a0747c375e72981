//! Lifeboats that run on while their host kexecs.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::fstat;

use super::{Cx, Scenario};
use crate::boat::{Boat, OFF, RUNNING, Spec, Status, both_beat, is_kept, of_none, started};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::memory::{self, PAGE, memfd};
use crate::spare::comes_back;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/kexec",
        about: "a boat keeps running while its host kexecs, is stopped by the next kernel, which gets the CPU, \
                and a boat of that one goes on to a third",
        host: HostKind::Lifeboat,
        stages: &[starts, stops_and_starts_another, stops],
    },
    &Scenario {
        name: "lifeboat/two-kexecs",
        about: "a boat keeps running while its host kexecs twice",
        host: HostKind::Lifeboat,
        stages: &[starts, lets_it_run, stops],
    },
    &Scenario {
        name: "lifeboat/unwatched",
        about: "a boat keeps running through a kernel that never loads its module",
        host: HostKind::Lifeboat,
        stages: &[starts, does_not_look, stops],
    },
];

const CPU: u32 = 1;
/// The box in which a kernel tells the next one of the boat, and the file in it.
const LOG: &str = "log";

/// What a kernel saw last of the boat.
#[derive(serde::Serialize, serde::Deserialize)]
struct Seen {
    life: u64,
    beats: u64,
    kernels: u64,
}

/// Writes it down for the next kernel.
fn tell_next(status: &Status) -> Result<()> {
    let seen = Seen {
        life: status.life,
        beats: status.beats,
        kernels: status.kernels,
    };
    let file = memfd(c"log", PAGE)?;
    let text = serde_json::to_string(&seen)?;
    file.write_all_at(text.as_bytes(), 0)?;
    let fdbox = FdBox::create(LOG)?;
    fdbox.put(file, LOG)?;
    fdbox.seal()
}

fn seen_by_last() -> Result<Seen> {
    let fdbox = FdBox::open(LOG)?;
    fdbox.unseal()?;
    let file: File = memory::file(fdbox.get(LOG)?);
    let mut text = vec![0; fstat(&file)?.st_size as usize];
    file.read_exact_at(&mut text, 0)?;
    text.retain(|byte| *byte != 0);
    fdbox.delete()?;
    serde_json::from_slice(&text).context("What the last kernel wrote")
}

fn start(boat: &Boat) -> Result<()> {
    let status = started(boat, &Spec::new("stay", &[CPU]), 0)?;
    equal("The kernels that have watched it", status.kernels, 1)?;
    both_beat(boat)?;
    tell_next(&boat.status()?)
}

/// The boat of the last kernel, which ran on meanwhile and is the same one.
fn found(cx: &Cx<'_>) -> Result<(Boat, Status)> {
    let boat = Boat::open()?;
    let last = seen_by_last()?;
    let status = boat.status()?;
    equal("The state", status.state, RUNNING)?;
    equal("The run of the boat", status.life, last.life)?;
    equal("The kernels", status.kernels, last.kernels + 1)?;
    equal("Its CPUs", status.nr_cpus, 1)?;
    ensure!(
        status.beats > last.beats,
        "It did not beat meanwhile: {} beats, {} before",
        status.beats,
        last.beats
    );
    both_beat(&boat)?;
    is_kept(CPU)?;
    cx.value("largest gap between beats in ns", status.largest_gap_ns)?;
    Ok((boat, status))
}

fn stop(boat: &Boat) -> Result<()> {
    boat.stop()?;
    equal("What is left of the boat", boat.status()?, of_none())?;
    comes_back(CPU)
}

fn starts(_: &Cx<'_>) -> Result<()> {
    start(&Boat::open()?)
}

fn lets_it_run(cx: &Cx<'_>) -> Result<()> {
    let (boat, _) = found(cx)?;
    tell_next(&boat.status()?)
}

/// Only fdbox.ko is loaded in this kernel, and carries the log on with the boat.
fn does_not_look(_: &Cx<'_>) -> Result<()> {
    let is_loaded = std::fs::exists(crate::boat::NODE)?;
    equal("Whether the boat's module is loaded", is_loaded, false)
}

fn stops(cx: &Cx<'_>) -> Result<()> {
    let (boat, _) = found(cx)?;
    stop(&boat)
}

fn stops_and_starts_another(cx: &Cx<'_>) -> Result<()> {
    let (boat, first) = found(cx)?;
    stop(&boat)?;
    crate::spare::set_online(CPU, false)?;
    equal("The state", boat.status()?.state, OFF)?;
    start(&boat)?;
    ensure!(
        boat.status()?.life != first.life,
        "Another boat has the number of the first"
    );
    Ok(())
}
