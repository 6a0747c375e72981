//! The init of a new host with a single task, which it starts before anything else.

use std::fs;
use std::process::Child;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use fdbox_lab::bench::{ARRIVED, Arrived, FIRST, Keeper, MEMFD_AFTER, RESUMED, WITNESS};
use fdbox_lab::event::{Event, EventPort, Hello};
use fdbox_lab::plan;
use rustix::mount::{MountFlags, mount};
use rustix::system::RebootCommand;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::{fleet, guest, memfd, number, say};
use crate::check::equal;
use crate::guest::{Guest, Starting};
use crate::memory::{MIB, PAGE};

/// Runs as PID 1. Errors are reported in the verdict, or on the console.
pub(crate) fn first() {
    let arrived = Arrived {
        tsc: fdbox_lab::tsc(),
        boottime_ns: boottime_ns(),
    };
    if let Err(error) = follow(arrived) {
        eprintln!("lab-scenarios: {error:#}");
    }
    if let Err(error) = rustix::system::reboot(RebootCommand::PowerOff) {
        eprintln!("lab-scenarios: cannot power off: {error}");
    }
}

fn follow(arrived: Arrived) -> Result<()> {
    for (filesystem, place) in [
        (c"devtmpfs", c"/dev"),
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
    ] {
        mount(filesystem, place, filesystem, MountFlags::empty(), None)
            .with_context(|| format!("Mount {}", place.to_string_lossy()))?;
    }
    let task = std::env::var(FIRST).unwrap_or_default();
    let begun = begin(&task, arrived);
    let port = Arc::new(EventPort::open()?);
    port.begin()?;
    port.send(&Event::Hello(hello(arrived)?))?;
    say(&port, ARRIVED, arrived)?;
    let done = begun.and_then(|begun| complete(&task, begun, &port));
    let error = done.err().map(|error| format!("lab-scenarios: {error:#}"));
    port.send(&Event::Verdict { error })?;
    Ok(port.drain()?)
}

/// What was started before anything else.
#[derive(Debug)]
enum Begun {
    Nothing,
    One(Starting),
    /// `resume --all`.
    All(Child),
}

/// The part that the guests wait for.
fn begin(task: &str, arrived: Arrived) -> Result<Begun> {
    let uptime = arrived.boottime_ns as f64 / 1e9;
    match task.split_once('-').unwrap_or((task, "")) {
        ("fleet", _) | ("resume", "") => crate::host::load_module("fdbox")?,
        // What there is without the module: LUO.
        ("resume", "luo") => {}
        _ => return Ok(Begun::Nothing),
    }
    match task.starts_with("fleet") {
        true => fleet::start_resume(uptime).map(Begun::All),
        false => Guest::start_resume(guest::taken_over(), uptime).map(Begun::One),
    }
}

/// The part that can wait until the guest runs.
fn complete(task: &str, begun: Begun, port: &Arc<EventPort>) -> Result<()> {
    match (task.split_once('-').unwrap_or((task, "")), begun) {
        (("fleet", guests), Begun::All(resume)) => fleet::arrived(resume, number(guests)?, port),
        (("resume", home), Begun::One(vmm)) => {
            let mut guest = vmm.connect(port)?;
            guest.wait_for_beat()?;
            say(port, WITNESS, guest.report()?)?;
            let report = guest.resume_report()?;
            let expected = if home.is_empty() { "fdbox" } else { home };
            equal("The home", &report["home"], &json!(expected))?;
            say(port, RESUMED, report)
        }
        (("luo", mib), _) => {
            let pages = number(mib)? * MIB / PAGE;
            say(port, MEMFD_AFTER, memfd::take_back(Keeper::Luo, 0, pages)?)
        }
        (("arrive", ""), _) => Ok(()),
        _ => bail!("There is nothing called {task:?} to do first"),
    }
}

fn hello(arrived: Arrived) -> Result<Hello> {
    let read = |path: &str| -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| format!("Read {path}"))?;
        Ok(text.trim().to_owned())
    };
    let cmdline = read("/proc/cmdline")?;
    Ok(Hello {
        stage: plan::stage_of(&cmdline).context("The command line has no stage")?,
        release: read("/proc/sys/kernel/osrelease")?,
        version: read("/proc/version")?,
        boot_id: read("/proc/sys/kernel/random/boot_id")?,
        uptime_ns: arrived.boottime_ns,
        tsc: arrived.tsc,
    })
}

fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
