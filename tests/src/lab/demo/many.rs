//! `cargo lab demo --guests N`: one kexec takes several guests along.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::{Value, json};

use super::{failed, follow, in_the_last_host, millis, report, say, sound, write_json};
use crate::cli::DemoArgs;
use crate::lab::Lab;
use crate::proof::{self, Update};
use crate::run::Record;
use crate::scenario_host::Group;

/// The scenario that the demo is.
const SCENARIO: &str = "guests/four-in-one-kexec";
/// Each guest's memory.
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
    say("guest  memory       pages  bad  disk: writes  bad  TCP: KiB  lost  stood still    (VMM)");
    for (name, update) in updates {
        let (mut writes, mut bad, mut kib) = (0, 0, 0);
        if let Some(traffic) = &update.traffic {
            writes = traffic.guest.disk.writes;
            bad = traffic.guest.disk.bad + traffic.image.bad;
            kib = traffic.bytes_sent() >> 10;
        }
        say(&format!(
            "{name:5}  {:11}  {:5}  {:3}  {writes:12}  {bad:3}  {kib:8}  {:4}  {:8.1} ms  {:.1} ms",
            update.resume.ram_kind,
            update.after.pages_checked,
            update.after.pages_bad,
            update
                .traffic
                .as_ref()
                .map_or(0, proof::Traffic::bytes_lost),
            millis(update.after.largest_gap_ns),
            millis(update.blackout.total_ns)
        ));
    }
    say("Emulation makes these figures many times larger than a real machine's.");
}

fn describe(record: &Record, updates: &Result<Updates>) -> Value {
    match updates {
        Ok(updates) => {
            let first = updates.first().map(|(_, update)| update);
            let mut report = report::head(record, first);
            let guests = updates.iter().map(|(name, update)| {
                let mut guest = report::of_guest(record, update);
                guest["name"] = json!(name);
                guest
            });
            report["guests"] = guests.collect();
            report
        }
        Err(error) => {
            let mut report = report::head(record, None);
            report["error"] = json!(format!("{error:#}"));
            report
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_showed_no_guest_is_no_success() {
        let record = Record::default();
        let updates = judge(&record, 4);
        assert!(updates.is_err());
        assert_eq!(describe(&record, &updates)["result"], "failed");
    }
}
