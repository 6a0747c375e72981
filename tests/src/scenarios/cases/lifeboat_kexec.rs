//! Lifeboats that run on while their host kexecs.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::fstat;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::boat::{Boat, OFF, RUNNING, Spec, Status, both_beat, is_kept, of_none, started};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::memory::{self, PAGE, memfd};
use crate::spare::{comes_back, set_online};

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
    &Scenario {
        name: "lifeboat/lends-cpus",
        about: "a boat starts with one CPU, gets another that its host has used until then, and keeps both while its \
                host kexecs",
        host: HostKind::Lifeboat,
        stages: &[lends, stops_both],
    },
];

const CPU: u32 = 1;
/// A CPU that the boat gets later.
const OTHER: u32 = 2;
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
fn found(cx: &Cx<'_>, cpus: &[u32]) -> Result<(Boat, Status)> {
    let boat = Boat::open()?;
    let last = seen_by_last()?;
    let status = boat.status()?;
    equal("The state", status.state, RUNNING)?;
    equal("The run of the boat", status.life, last.life)?;
    equal("The kernels", status.kernels, last.kernels + 1)?;
    equal("Its CPUs", status.nr_cpus as usize, cpus.len())?;
    ensure!(
        status.beats > last.beats,
        "It did not beat meanwhile: {} beats, {} before",
        status.beats,
        last.beats
    );
    both_beat(&boat)?;
    cpus.iter().try_for_each(|cpu| is_kept(*cpu))?;
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
    let (boat, _) = found(cx, &[CPU])?;
    tell_next(&boat.status()?)
}

/// Only fdbox.ko is loaded in this kernel, and carries the log on with the boat.
fn does_not_look(_: &Cx<'_>) -> Result<()> {
    let is_loaded = std::fs::exists(crate::boat::NODE)?;
    equal("Whether the boat's module is loaded", is_loaded, false)
}

fn stops(cx: &Cx<'_>) -> Result<()> {
    let (boat, _) = found(cx, &[CPU])?;
    stop(&boat)
}

fn lends(_: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    let of_three = Spec {
        nr_start: 3,
        ..Spec::new("stay", &[CPU, OTHER])
    };
    let words = "a boat of 2 CPUs cannot start with 3";
    boat.is_refused("LOAD", boat.try_load(&of_three)?, Errno::INVAL, words)?;
    let with_rescue = Spec {
        nr_start: 1,
        rescue: true,
        ..of_three.clone()
    };
    let words = "starts with all of its CPUs";
    boat.is_refused("LOAD", boat.try_load(&with_rescue)?, Errno::INVAL, words)?;
    boat.is_refused("LEND", boat.try_lend(2), Errno::INVAL, "no boat that runs")?;
    comes_back(OTHER)?;
    let of_one = Spec {
        nr_start: 1,
        ..of_three
    };
    started(&boat, &of_one, 0)?;
    comes_back(OTHER)?;
    boat.is_refused("LEND", boat.try_lend(2), Errno::BUSY, "CPU 2 is online")?;
    for count in [0, 1] {
        let words = format!("{count} CPUs are not more than the 1");
        boat.is_refused("LEND", boat.try_lend(count), Errno::INVAL, &words)?;
    }
    let words = "at most the 2 that it was loaded with";
    boat.is_refused("LEND", boat.try_lend(3), Errno::INVAL, words)?;
    set_online(OTHER, false)?;
    boat.lend(2)?;
    equal("Its CPUs", boat.status()?.nr_cpus, 2)?;
    is_kept(OTHER)?;
    both_beat(&boat)?;
    tell_next(&boat.status()?)
}

fn stops_both(cx: &Cx<'_>) -> Result<()> {
    let (boat, _) = found(cx, &[CPU, OTHER])?;
    let words = "at most the 2 that it was loaded with";
    boat.is_refused("LEND", boat.try_lend(3), Errno::INVAL, words)?;
    stop(&boat)?;
    comes_back(OTHER)
}

fn stops_and_starts_another(cx: &Cx<'_>) -> Result<()> {
    let (boat, first) = found(cx, &[CPU])?;
    stop(&boat)?;
    set_online(CPU, false)?;
    equal("The state", boat.status()?.state, OFF)?;
    start(&boat)?;
    ensure!(
        boat.status()?.life != first.life,
        "Another boat has the number of the first"
    );
    Ok(())
}
