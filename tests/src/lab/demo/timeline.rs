//! The timeline: events in the host and messages of the guests, one line each, as they happen.

use fdbox_lab::event::{Event, Stream};
use fdbox_lab::witness::{Io, WitnessEvent as Witness, parse};

use super::{millis, say};
use crate::lines::{Line, LineContent};

pub(super) fn head() {
    say("seconds  who    what");
}

/// Prints the line of the timeline for this event, if it is worth one.
pub(super) fn tell(line: &Line) {
    let LineContent::Event(event) = &line.content else {
        return;
    };
    let line_text = match event {
        Event::Hello(hello) => Some(("host", format!("Linux {} is up", hello.release))),
        Event::Output {
            stream: Stream::Stdout,
            text,
        } => Some(("host", text.trim().to_owned())),
        Event::Output {
            stream: Stream::Stderr,
            text,
        } => Some(("host", text.clone())),
        Event::Guest { text, .. } => parse(text).and_then(of_witness).map(|text| ("guest", text)),
        Event::Scenario {
            error: Some(error), ..
        } => Some(("host", error.clone())),
        _ => None,
    };
    if let Some((who, text)) = line_text {
        say(&format!("{:7.2}  {who:5}  {text}", line.at.as_secs_f64()));
    }
}

fn of_witness(line_text: Witness) -> Option<String> {
    match line_text {
        Witness::Ready { pages, cpus } => Some(format!(
            "up with {cpus} CPU{}; {pages} pages hold a pattern",
            if cpus == 1 { "" } else { "s" }
        )),
        Witness::Beat { uptime_ms, counter } => Some(format!(
            "alive for {:.1} s; its clocks were read {counter} times",
            uptime_ms as f64 / 1e3
        )),
        Witness::Report(report) => Some(format!(
            "checked {} pages: {} bad; longest standstill {:.1} ms",
            report.pages_checked,
            report.pages_bad,
            millis(report.largest_gap_ns)
        )),
        Witness::Io(io) => Some(of_io(&io)),
        Witness::Frames(frames) => Some(format!(
            "e1000e: {} frames in, {} lost, {} repeated, {} torn",
            frames.received, frames.lost, frames.repeated, frames.torn
        )),
        Witness::Nvme(nvme) => Some(format!(
            "NVMe: {} blocks written, {} read back, {} bad",
            nvme.disk.writes, nvme.disk.verified, nvme.disk.bad
        )),
        Witness::Disk(disk) => Some(format!(
            "disk: {} blocks written, {} read back, {} bad",
            disk.writes, disk.verified, disk.bad
        )),
        Witness::PowerButton => Some("somebody pressed its power button".to_owned()),
        Witness::Work { .. }
        | Witness::Sent { .. }
        | Witness::Ran { .. }
        | Witness::Clocks(_)
        | Witness::Stage { .. }
        | Witness::Done
        | Witness::Registers { .. }
        | Witness::What => None,
    }
}

fn of_io(io: &Io) -> String {
    format!(
        "disk: {} blocks written, {} read back, {} bad; TCP: {} KiB in, {} KiB out",
        io.disk.writes,
        io.disk.verified,
        io.disk.bad,
        io.tcp.received >> 10,
        io.tcp.sent >> 10
    )
}
