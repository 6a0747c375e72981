//! `cargo lab demo --guests N`: one kexec updates the host under several guests.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::{Value, json};

use super::{failed, follow, in_the_last_host, millis, report, say, sound, write_json};
use crate::cli::DemoArgs;
use crate::lab::Lab;
use crate::proof::{self, Update};
use crate::run::Record;
use crate::scenario_host::Group;

/// The scenario behind the demo.
const SCENARIO: &str = "guests/four-in-one-kexec";
/// The memory of each guest.
const MIB: u64 = 128;

/// The guests, by name.
type Updates = Vec<(String, Update)>;

pub(super) fn run(lab: &Lab, args: &DemoArgs) -> Result<ExitCode> {
    let group = Group {
        kind: HostKind::Guests,
        kernels: 2,
        names: vec![SCENARIO],
        environment: format!("LAB_GUESTS={}", args.guests),
        guests: u8::try_from(args.guests)?,
        more_memory_mib: (args.guests * MIB).saturating_sub(512),
        debug: false,
        other: None,
        cpus: None,
    };
    let (record, dir) = follow(lab, &group, args.verbose)?;
    let updates = judge(&record, args.guests);
    write_json(args.json.as_deref(), &describe(&record, &updates))?;
    match updates {
        Ok(updates) => {
            summary(&record, &updates);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(failed(&error, &dir)),
    }
}

fn judge(record: &Record, count: u64) -> Result<Updates> {
    sound(record)?;
    let updates = proof::of_guests(record)?;
    ensure!(
        updates.len() as u64 == count,
        "{} guests of {count} were updated",
        updates.len()
    );
    for (_, update) in &updates {
        in_the_last_host(record, update)?;
    }
    Ok(updates)
}

fn summary(record: &Record, updates: &Updates) {
    let kernels: Vec<&str> = record
        .hellos
        .iter()
        .map(|(_, hello)| hello.release.as_str())
        .collect();
    say("");
    say(&format!(
        "The host went from {}, and {} guests with it. None of them rebooted.",
        kernels.join(" to "),
        updates.len()
    ));
    say(HEADING);
    updates
        .iter()
        .for_each(|(name, update)| say(&row(name, update)));
    say("");
    say(
        "Stood still: as the guest says, and as its VMM does. Silent: how long TCP and ping gave no answer.",
    );
    say("Emulation makes these figures many times larger than a real machine's.");
}

const HEADING: &str = "guest  memory       pages  bad  disk: writes  bad  TCP: KiB  lost  twice  \
    stood still:  guest    VMM  silent:  TCP   ping";

/// What a guest saw, on one line. Times are in milliseconds.
fn row(name: &str, update: &Update) -> String {
    let after = &update.after;
    let mut row = format!(
        "{name:5}  {:11}  {:5}  {:3}",
        update.resume.ram_kind, after.pages_checked, after.pages_bad
    );
    row += &match &update.traffic {
        Some(traffic) => format!(
            "  {:12}  {:3}  {:8}  {:4}  {:5}",
            traffic.guest.disk.writes,
            traffic.guest.disk.bad + traffic.image.bad,
            traffic.bytes_sent() >> 10,
            traffic.bytes_lost(),
            traffic.bytes_repeated()
        ),
        None => format!(
            "  {:>12}  {:>3}  {:>8}  {:>4}  {:>5}",
            "-", "-", "-", "-", "-"
        ),
    };
    row += &format!(
        "  {:19.0}  {:5.0}",
        millis(after.largest_gap_ns),
        millis(update.blackout.total_ns)
    );
    if let Some(traffic) = &update.traffic {
        let silence = |gap: Duration| gap.as_secs_f64() * 1e3;
        let seen = &traffic.outside;
        row += &format!(
            "  {:12.0}  {:5.0}",
            silence(seen.tcp.largest_gap),
            silence(seen.ping.largest_gap)
        );
    }
    row
}

/// Reports each guest, also in a run that failed: with what is known about it.
fn describe(record: &Record, updates: &Result<Updates>) -> Value {
    let first = updates.as_ref().ok().and_then(|updates| updates.first());
    let mut report = report::head(record, first.map(|(_, update)| update));
    let guests = proof::each_guest(record);
    let guest = |(name, update): &(String, Result<Update>)| report::of(record, update, Some(name));
    report["guests"] = guests.iter().map(guest).collect();
    if let Err(error) = updates {
        report["error"] = json!(format!("{error:#}"));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_showed_no_guest_is_no_success() {
        let record = Record::default();
        let updates = judge(&record, 4);
        assert!(updates.is_err());
        let report = describe(&record, &updates);
        assert_eq!(report["result"], "failed");
        assert_eq!(report["guests"], json!([]));
    }

    #[test]
    fn every_guest_is_told_of_as_the_one_of_the_single_demo() {
        let update = proof::with_traffic();
        report::is_complete(&report::of(
            &report::run(),
            &Ok(update.clone()),
            Some("vm0"),
        ));
        // Every heading has its figure below it, right-aligned.
        let row = row("vm0", &update);
        assert_eq!(row.len(), HEADING.len(), "\n{HEADING}\n{row}");
        assert!(row.ends_with(" 1000"), "the ping's silence: {row}");
    }

    #[test]
    fn a_run_that_failed_tells_of_the_guests_that_did_not() {
        let record = proof::two_guests(1501);
        let updates = judge(&record, 2);
        let report = describe(&record, &updates);
        assert_eq!(report["result"], "failed");
        let guests = report["guests"].as_array().unwrap();
        let reports: Vec<_> = guests
            .iter()
            .map(|guest| (&guest["name"], &guest["result"]))
            .collect();
        assert_eq!(json!(reports), json!([["vm0", "done"], ["vm1", "failed"]]));
        assert!(guests[1]["error"].as_str().unwrap().contains("heartbeat"));
        assert_eq!(guests[1]["guest"]["pages_bad"], 0);
    }
}
