//! `cargo lab demo --guests N`: one kexec takes several guests along.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::{Value, json};

use crate::cli::DemoArgs;
use crate::demo::{self, millis, say};
use crate::hostcmd;
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

pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    let lab = Lab::open()?;
    let group = Group {
        kind: HostKind::Guests,
        kernels: 2,
        names: vec![SCENARIO],
        environment: format!("LAB_GUESTS={}", args.guests),
        more_memory_mib: (args.guests * MIB).saturating_sub(512),
        debug: false,
    };
    let host = group.prepare(&lab)?;
    say("seconds  who    what");
    let record = host.run(&lab, |line| match args.verbose {
        true => hostcmd::show(line),
        false => demo::tell(line),
    })?;
    let updates = judge(&record, args.guests);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report(&record, &updates))?;
        std::fs::write(path, text).with_context(|| format!("Write {}", path.display()))?;
    }
    match updates {
        Ok(updates) => {
            summary(&record, &updates);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let logs = host.dir.display();
            eprintln!("lab: {error:#}\nlab: the logs are in {logs}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn judge(record: &Record, count: u64) -> Result<Updates> {
    let failures = record.failures.iter().map(ToString::to_string);
    let stages = record.scenarios.iter();
    let wrong: Vec<String> = failures
        .chain(stages.filter_map(|stage| stage.error.clone()))
        .collect();
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\nlab: "));
    }
    let updates = proof::of_guests(record)?;
    ensure!(
        updates.len() as u64 == count,
        "{} guests of {count} were updated",
        updates.len()
    );
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
    say("guest  memory       pages checked  bad  stood still (guest)  (VMM)");
    for (name, update) in updates {
        say(&format!(
            "{name:5}  {:11}  {:13}  {:3}  {:16.1} ms  {:.1} ms",
            update.resume.ram_kind,
            update.after.pages_checked,
            update.after.pages_bad,
            millis(update.after.largest_gap_ns),
            millis(update.blackout.total_ns)
        ));
    }
    say("Emulation makes these figures many times larger than a real machine's.");
}

fn report(record: &Record, updates: &Result<Updates>) -> Value {
    let mut report = demo::head(record, updates.is_ok());
    match updates {
        Ok(updates) => {
            let guest = |(name, update): &(String, Update)| {
                json!({
                    "name": name,
                    "guest": demo::guest(update),
                    "blackout": update.blackout,
                })
            };
            report["guests"] = updates.iter().map(guest).collect();
        }
        Err(error) => report["error"] = json!(format!("{error:#}")),
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
        assert_eq!(report(&record, &updates)["result"], "failed");
    }
}
