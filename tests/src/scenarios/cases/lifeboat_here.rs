//! Lifeboats that end in the kernel that started them, well or not.

use std::process::Command;

use anyhow::{Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::lifeboat_meeting::Meeting;
use super::{Cx, Scenario};
use crate::boat::{Boat, LOST, OFF, RUNNING, Spec, both_beat, is_kept, of_none, started};
use crate::check::{equal, fails};
use crate::host;
use crate::spare::{Free, MOST_OF_IT_KIB, comes_back, set_online};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/two-cpus",
        about: "a boat of two CPUs beats beside its host, parks, and gives CPUs and memory back",
        host: HostKind::LifeboatOneBoot,
        stages: &[two_cpus],
    },
    &Scenario {
        name: "lifeboat/alone",
        about: "a host that sends interrupts to all CPUs at once keeps to its one CPU while there is a boat",
        host: HostKind::LifeboatOneBoot,
        stages: &[alone],
    },
    &Scenario {
        name: "lifeboat/crash",
        about: "a boat whose kernel panics is lost, and its CPU and memory come back",
        host: HostKind::LifeboatOneBoot,
        stages: &[crash],
    },
    &Scenario {
        name: "lifeboat/shutdown",
        about: "a boat that shuts down leaves the machine on and is lost",
        host: HostKind::LifeboatOneBoot,
        stages: &[shutdown],
    },
    &Scenario {
        name: "lifeboat/silence",
        about: "a boat that says nothing is lost, does not park, and its CPU is taken",
        host: HostKind::LifeboatOneBoot,
        stages: &[silence],
    },
    &Scenario {
        name: "lifeboat/slow",
        about: "a boat that is lost because it is slow runs again when it beats",
        host: HostKind::LifeboatOneBoot,
        stages: &[slow],
    },
    &Scenario {
        name: "lifeboat/lends-in-vain",
        about: "a CPU that a busy boat does not bring up in time stays the boat's until that is stopped",
        host: HostKind::LifeboatOneBoot,
        stages: &[lends_in_vain],
    },
    &Scenario {
        name: "lifeboat/killed",
        about: "who is killed while a boat starts leaves none, and its CPU and memory come back",
        host: HostKind::LifeboatOneBoot,
        stages: &[killed],
    },
    &Scenario {
        name: "lifeboat/never-aboard",
        about: "a boat that never beats is no boat, and its CPU and memory come back",
        host: HostKind::LifeboatOneBoot,
        stages: &[never_aboard],
    },
];

const BOTH: [u32; 2] = [1, 2];
/// As /proc has the number of the system call, and that of the command.
const IOCTL: &str = "16";
const START: &str = "0x2e11";

/// Runs `act` while these CPUs are offline, and has them all again in the end, and the memory.
pub(super) fn lent(cx: &Cx<'_>, cpus: &[u32], act: impl FnOnce(&Boat) -> Result<()>) -> Result<()> {
    let boat = Boat::open()?;
    for cpu in cpus {
        set_online(*cpu, false)?;
    }
    let before = Free::now()?;
    act(&boat)?;
    equal("What is left of the boat", boat.status()?, of_none())?;
    let after = Free::now()?;
    cx.value("free KiB before and after", (before, after))?;
    ensure!(
        after.kib() + MOST_OF_IT_KIB > before.kib(),
        "The boat's memory did not come back: free are {after:?}, not {before:?}"
    );
    cpus.iter().try_for_each(|cpu| comes_back(*cpu))
}

fn two_cpus(cx: &Cx<'_>) -> Result<()> {
    lent(cx, &BOTH, |boat| {
        started(boat, &Spec::new("stay", &BOTH), 0)?;
        both_beat(boat)?;
        BOTH.iter().try_for_each(|cpu| is_kept(*cpu))?;
        boat.stop()
    })
}

fn alone(cx: &Cx<'_>) -> Result<()> {
    lent(cx, &BOTH, |boat| {
        started(boat, &Spec::new("stay", &BOTH[1..]), 0)?;
        // No CPU of the boat's, but with it there would be two.
        is_kept(BOTH[0])?;
        both_beat(boat)?;
        boat.stop()
    })
}

/// A boat with this fate, which is lost by it.
fn lost(
    cx: &Cx<'_>,
    fate: &str,
    silence_ms: u32,
    stop: impl FnOnce(&Boat) -> Result<()>,
) -> Result<()> {
    lent(cx, &BOTH, |boat| {
        boat.load(&Spec::new(fate, &BOTH[..1]))?;
        boat.start(silence_ms)?;
        // It may be lost by now.
        let state = match boat.status()?.state {
            RUNNING => boat.next_state()?,
            state => state,
        };
        equal("The state", state, LOST)?;
        is_kept(BOTH[0])?;
        stop(boat)
    })
}

fn crash(cx: &Cx<'_>) -> Result<()> {
    lost(cx, "panic", 0, Boat::stop)
}

fn shutdown(cx: &Cx<'_>) -> Result<()> {
    lost(cx, "halt", 0, Boat::stop)
}

fn silence(cx: &Cx<'_>) -> Result<()> {
    lost(cx, "fall-silent", 1000, Boat::stop)
}

fn slow(cx: &Cx<'_>) -> Result<()> {
    lent(cx, &BOTH, |boat| {
        boat.load(&Spec::new("help:hold-up,meeting", &BOTH[..1]))?;
        boat.start(1000)?;
        let meeting = Meeting::wait()?;
        boat.wait_for_state(LOST)?;
        let lost = boat.status()?;
        meeting.end()?;
        boat.wait_for_state(RUNNING)?;
        equal("Its run", boat.status()?.life, lost.life)?;
        both_beat(boat)?;
        boat.stop()
    })
}

fn lends_in_vain(cx: &Cx<'_>) -> Result<()> {
    lent(cx, &BOTH, |boat| {
        boat.load(&Spec {
            nr_start: 1,
            ..Spec::new("help:hold-up,meeting", &BOTH)
        })?;
        boat.start(0)?;
        let meeting = Meeting::wait()?;
        let words = "of 2 CPUs within 1000 ms";
        let lent = boat.try_lend_within(1000, 2);
        boat.is_refused("LEND", lent, Errno::TIMEDOUT, words)?;
        equal("Its CPUs", boat.status()?.nr_cpus, 2)?;
        is_kept(BOTH[1])?;
        meeting.end()?;
        both_beat(boat)?;
        boat.stop()
    })
}

/// START, which somebody is to be killed in.
pub(super) fn start_boat(start_ms: &str) -> Result<()> {
    Ok(Boat::open()?.try_start(start_ms.parse()?, 0)?)
}

fn killed(cx: &Cx<'_>) -> Result<()> {
    lent(cx, &BOTH, |boat| {
        boat.load(&Spec::new("silent-from-the-start", &BOTH[..1]))?;
        let mut starter = Command::new("/proc/self/exe");
        let mut starter = starter.args(["help", "start-boat", "120000"]).spawn()?;
        let call = format!("/proc/{}/syscall", starter.id());
        let starts = || {
            let text = std::fs::read_to_string(&call)?;
            let words: Vec<&str> = text.split(' ').collect();
            Ok(words.first() == Some(&IOCTL) && words.get(2) == Some(&START))
        };
        host::until("START is under way", starts)?;
        starter.kill()?;
        starter.wait()?;
        equal("The state", boat.status()?.state, OFF)
    })
}

fn never_aboard(cx: &Cx<'_>) -> Result<()> {
    lent(cx, &BOTH, |boat| {
        boat.load(&Spec::new("silent-from-the-start", &BOTH[..1]))?;
        boat.is_refused(
            "To start it",
            boat.try_start(3000, 0),
            Errno::TIMEDOUT,
            "did not beat within 3000 ms",
        )?;
        equal("The state", boat.status()?.state, OFF)?;
        fails("To stop it", boat.try_stop(0), Errno::INVAL)
    })
}
