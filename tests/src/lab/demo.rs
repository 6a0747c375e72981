//! `cargo lab demo`: a host is updated under a running guest, and both tell what they saw.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::event::{Event, Stream};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::{Said as Witness, parse};
use serde_json::{Value, json};

use crate::cli::DemoArgs;
use crate::hostcmd;
use crate::lab::Lab;
use crate::proof::{self, Update};
use crate::qemu::{Line, Said};
use crate::run::Record;
use crate::scenario_host::Group;

/// The scenario that the demo is.
const SCENARIO: &str = "guest/guest-memfd";

pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    if args.guests > 1 {
        return crate::demo_guests::run(args);
    }
    let lab = Lab::open()?;
    let group = Group {
        kind: if args.cpus > 1 {
            HostKind::GuestSmp
        } else {
            HostKind::Guest
        },
        kernels: 2,
        names: vec![SCENARIO],
        environment: format!(
            "LAB_GUEST_RAM={} LAB_GUEST_MIB={} LAB_GUEST_CPUS={}",
            args.ram.name(),
            args.memory,
            args.cpus
        ),
        more_memory_mib: args.memory.saturating_sub(256),
        debug: false,
    };
    let host = group.prepare(&lab)?;
    say("seconds  who    what");
    let record = host.run(&lab, |line| match args.verbose {
        true => hostcmd::show(line),
        false => tell(line),
    })?;
    let update = judge(&record);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report(&record, &update))?;
        std::fs::write(path, text).with_context(|| format!("Write {}", path.display()))?;
    }
    match update {
        Ok(update) => {
            summary(&record, &update);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!(
                "lab: {error:#}\nlab: the logs are in {}",
                host.dir.display()
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The one update of the run, if nothing was wrong with it.
fn judge(record: &Record) -> Result<Update> {
    let failed = record
        .scenarios
        .iter()
        .filter_map(|stage| stage.error.clone());
    let wrong: Vec<String> = record
        .failures
        .iter()
        .map(ToString::to_string)
        .chain(failed)
        .collect();
    if !wrong.is_empty() {
        anyhow::bail!("{}", wrong.join("\nlab: "));
    }
    proof::updates(record)?.pop().context("No update was seen")
}

pub(crate) fn say(text: &str) {
    // Nobody left to read it: the exit status still tells.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// One line of the timeline, if this is worth one.
pub(crate) fn tell(line: &Line) {
    let Said::Event(event) = &line.said else {
        return;
    };
    let told = match event {
        Event::Hello(hello) => Some(("host", format!("Linux {} is up", hello.release))),
        Event::Output {
            stream: Stream::Stdout,
            text,
        } => Some(("host", text.trim().to_owned())),
        Event::Output {
            stream: Stream::Stderr,
            text,
        } => Some(("host", text.clone())),
        Event::Guest { text } => parse(text).and_then(of_witness).map(|text| ("guest", text)),
        Event::Scenario {
            error: Some(error), ..
        } => Some(("host", error.clone())),
        _ => None,
    };
    if let Some((who, text)) = told {
        say(&format!("{:7.2}  {who:5}  {text}", line.at.as_secs_f64()));
    }
}

fn of_witness(said: Witness) -> Option<String> {
    match said {
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
        Witness::Work { .. } | Witness::Done | Witness::What => None,
    }
}

fn summary(record: &Record, update: &Update) {
    let (before, after) = (&update.before, &update.after);
    let hellos: Vec<_> = record.hellos.iter().map(|(_, hello)| hello).collect();
    let kernels: Vec<&str> = hellos.iter().map(|hello| hello.release.as_str()).collect();
    let lived = Duration::from_nanos(after.uptime_ns - before.uptime_ns);
    say("");
    say(&format!("The host went from {}.", kernels.join(" to ")));
    say(&format!(
        "The guest ({} CPU, {} MiB of {}) did not reboot: it has the same boot_id.",
        update.resume.vcpus, update.resume.ram_mib, update.resume.ram_kind
    ));
    say(&format!(
        "All {} pages it had filled are as it wrote them; no clock went back; its kernel has \
         nothing to complain about.",
        after.pages_checked
    ));
    say(&format!(
        "By its own clocks it stood still for {:.1} ms of {:.1} s; the VMM counts {:.1} ms:",
        millis(after.largest_gap_ns),
        lived.as_secs_f64(),
        millis(update.blackout.total_ns)
    ));
    for phase in &update.blackout.phases {
        say(&format!("  {:16} {:9.1} ms", phase.name, millis(phase.ns)));
    }
    say("Emulation makes these figures many times larger than a real machine's.");
}

/// What a machine reads, whole or, after a failure, as much as is known.
fn report(record: &Record, update: &Result<Update>) -> Value {
    let mut report = head(record, update.is_ok());
    match update {
        Ok(update) => {
            report["guest"] = guest(update);
            report["blackout"] = json!(update.blackout);
        }
        Err(error) => report["error"] = json!(format!("{error:#}")),
    }
    report
}

/// What a machine reads of the run and the host.
pub(crate) fn head(record: &Record, done: bool) -> Value {
    let hello = |index: usize| record.hellos.get(index).map(|(_, hello)| hello);
    json!({
        "result": if done { "done" } else { "failed" },
        "host": {
            "kernel_before": hello(0).map(|hello| &hello.release),
            "kernel_after": hello(1).map(|hello| &hello.release),
            "boot_id_before": hello(0).map(|hello| &hello.boot_id),
            "boot_id_after": hello(1).map(|hello| &hello.boot_id),
        },
    })
}

/// What a machine reads of the guest.
pub(crate) fn guest(update: &Update) -> Value {
    let (before, after) = (&update.before, &update.after);
    json!({
                "boot_id": after.boot_id,
                "boot_id_same": before.boot_id == after.boot_id,
                "kernel": after.release,
                "cpus": after.cpus,
                "ram_kind": update.resume.ram_kind,
                "ram_mib": update.resume.ram_mib,
                "pages_checked": after.pages_checked,
                "pages_bad": after.pages_bad,
                "pages_rewritten": after.rewritten,
                "counter_before": before.counter,
                "counter_after": after.counter,
                "counter_went_back": after.counter_went_back,
                "largest_gap_ns": after.largest_gap_ns,
                "largest_gap_tsc_ns": after.largest_gap_tsc_ns,
                "kernel_warnings": after.kernel_warnings,
    })
}

pub(crate) fn millis(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Failure;

    #[test]
    fn a_run_with_a_failure_is_no_success() {
        let mut record = Record::default();
        assert!(judge(&record).is_err(), "a run that showed nothing");
        let text = "Host kernel (bug:): BUG: x".into();
        record.failures.push(Failure { text, during: None });
        let update = judge(&record);
        let report = report(&record, &update);
        assert_eq!(report["result"], "failed");
        assert!(report["error"].as_str().unwrap().contains("BUG: x"));
    }
}
