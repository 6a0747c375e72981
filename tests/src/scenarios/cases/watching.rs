//! A client that watches a guest receives all its events, with disk and network in use.

use std::collections::HashMap;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::Value;

use super::reports::same_guest;
use super::upgrade::boot_spec;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::{Guest, Spec, VMM, Watch};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "watching/events-and-metrics",
    about: "events and metrics cover a guest's devices and an update that is rolled back",
    host: HostKind::GuestOneBoot,
    stages: &[events_and_metrics],
}];

/// The expected events, in this order; other events may come between.
const EVENTS: &[&str] = &[
    "update-begin",
    "step-started",
    "step-done",
    "pausing",
    "step-failed",
    "rolling-back",
    "update-end",
    "ended",
];

fn events_and_metrics(_: &Cx<'_>) -> Result<()> {
    let mut guest = boot_spec(Spec {
        name: "watched",
        ram: "guest_memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: Some(0),
    })?;
    let io = guest.console.wait_for_io(None)?;
    let before = guest.report()?;
    let figures = metrics(&guest)?;
    for device in ["blk0", "net0"] {
        for of in ["requests", "bytes", "interrupts"] {
            let name = format!("virtio_{of}_total{{guest=\"watched\",device=\"{device}\"}}");
            ensure!(figure(&figures, &name)? > 0.0, "{name} is 0: {figures:?}");
        }
        let name = format!("virtio_errors_total{{guest=\"watched\",device=\"{device}\"}}");
        equal(&name, figure(&figures, &name)?, 0.0)?;
    }
    let watch = Watch::start(&guest.api_path())?;
    guest.live_update(&["--fail-at", "pause"])?.expect(11)?;
    guest.console.wait_for_io(Some(&io))?;
    same_guest(&before, &guest.report()?)?;
    let later = metrics(&guest)?;
    let requests = "virtio_requests_total{guest=\"watched\",device=\"blk0\"}";
    ensure!(
        figure(&later, requests)? > figure(&figures, requests)?,
        "The disk's requests are not counted on"
    );
    let rolled_back = "updates_total{guest=\"watched\",result=\"rolled-back\"}";
    equal(rolled_back, figure(&later, rolled_back)?, 1.0)?;
    let io = guest.console.end_io()?;
    equal("Bad blocks", io.disk.bad, 0)?;
    equal("Bytes lost", io.tcp.lost, 0)?;
    equal("Bytes repeated", io.tcp.repeated, 0)?;
    ensure!(io.tcp.error.is_none(), "TCP: {:?}", io.tcp.error);
    guest.power_off()?;
    check(&watch.end()?)
}

type Figures = HashMap<String, f64>;

/// `vmm-example metrics`, with each line's name without its prefix.
fn metrics(guest: &Guest) -> Result<Figures> {
    let mut command = Command::new(VMM);
    command
        .args(["metrics", "--api-socket"])
        .arg(guest.api_path());
    let output = command.output()?;
    ensure!(output.status.success(), "metrics: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').context("A figure has a value")?;
            let name = name.strip_prefix("vmm_example_");
            Ok((
                name.context("A figure of the VMM's")?.to_owned(),
                value.parse()?,
            ))
        })
        .collect()
}

fn figure(figures: &Figures, name: &str) -> Result<f64> {
    let found = figures.get(name).copied();
    found.with_context(|| format!("There is no {name} in {figures:?}"))
}

fn check(events: &[Value]) -> Result<()> {
    let mut last = 0;
    let mut wanted = EVENTS.iter().peekable();
    for event in events {
        let at = event["boottime_ns"].as_u64();
        let at = at.with_context(|| format!("An event without a time: {event}"))?;
        ensure!(at >= last, "Events are not in order: {events:?}");
        last = at;
        equal("The guest", &event["guest"], &"watched".into())?;
        wanted.next_if(|name| event["event"] == **name);
    }
    if let Some(missing) = wanted.next() {
        bail!("No event {missing}, or not in its place: {events:?}");
    }
    let end = events.last().context("There are events")?;
    let reason = end["message"].as_str().unwrap_or_default();
    ensure!(
        reason.contains("switched itself off"),
        "The end's reason: {end}"
    );
    Ok(())
}
