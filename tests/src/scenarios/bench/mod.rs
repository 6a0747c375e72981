//! The part of `cargo lab bench` that runs in the host. Figures are sent as values, which the lab
//! evaluates.

mod baseline;
mod first;
mod fleet;
mod guest;
mod luo;
mod memfd;
mod pages;
mod qemu;
mod reads;
mod upgrade;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fdbox_lab::event::{Event, EventPort};

pub(crate) use first::first;

/// `lab-scenarios bench ...`
pub(crate) fn run(words: &[&str]) -> Result<()> {
    match words {
        ["memfd", "before", mib, layout, first] => memfd::before(mib, layout, first),
        ["memfd", "after", mib, first] => memfd::after(mib, first),
        ["luo", mib, layout] => baseline::luo(mib, layout),
        ["copy", mib] => baseline::copy(mib),
        ["jump"] => baseline::jump(),
        ["update", ram, mib, cpus, pages] => guest::update(ram, mib, cpus, pages, false),
        ["update", ram, mib, cpus, pages, "ask"] => guest::update(ram, mib, cpus, pages, true),
        ["fleet", guests, ram, mib, pages] => fleet::update(guests, ram, mib, pages),
        ["work", ram, mib, seconds] => guest::work(ram, mib, seconds),
        ["upgrade", ram, mib, runs] => upgrade::binary(ram, mib, runs),
        ["cpr-transfer", mib, runs] => upgrade::cpr_transfer(mib, runs),
        ["reads"] => reads::reads(),
        ["hold"] => hold(),
        _ => bail!("There is no bench {}", words.join(" ")),
    }
}

/// Keeps the inherited descriptor open until the kexec.
fn hold() -> Result<()> {
    loop {
        std::thread::park();
    }
}

fn say(port: &EventPort, name: &str, figures: impl serde::Serialize) -> Result<()> {
    Ok(port.send(&Event::Value {
        name: name.to_owned(),
        value: serde_json::to_value(figures)?,
    })?)
}

fn number(text: &str) -> Result<u64> {
    text.parse()
        .with_context(|| format!("{text} is not a number"))
}

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

fn ns_since(start: Instant) -> u64 {
    ns(start.elapsed())
}
