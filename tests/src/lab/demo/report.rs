//! What a machine reads of an update.

use serde_json::{Value, json};

use crate::proof::Update;
use crate::run::Record;

/// One guest's update, whole or, after a failure, as much as is known.
pub(super) fn of(record: &Record, update: &anyhow::Result<Update>) -> Value {
    match update {
        Ok(update) => of_guest(record, update),
        Err(error) => {
            let mut report = head(record, None);
            report["error"] = json!(format!("{error:#}"));
            report
        }
    }
}

/// Of one guest that was updated under.
pub(super) fn of_guest(record: &Record, update: &Update) -> Value {
    let mut report = head(record, Some(update));
    report["guest"] = guest(update);
    report["blackout"] = json!(update.blackout);
    if let Some(traffic) = &update.traffic {
        traffic.describe(&mut report);
    }
    if let Some(device) = &update.device {
        report["device"] = json!(device);
    }
    report
}

/// The result, and the host before and after: where the guest runs after, its VMM says.
pub(super) fn head(record: &Record, update: Option<&Update>) -> Value {
    let hellos: Vec<_> = record.hellos.iter().map(|(_, hello)| hello).collect();
    let (before, after) = (hellos.first(), hellos.last());
    json!({
        "result": if update.is_some() { "done" } else { "failed" },
        "host": {
            "kernel_before": before.map(|hello| &hello.release),
            "kernel_after": after.map(|hello| &hello.release),
            "boot_id_before": before.map(|hello| &hello.boot_id),
            "boot_id_after": match update {
                Some(update) => Some(&update.resume.host.boot_id),
                None => after.map(|hello| &hello.boot_id),
            },
        },
    })
}

fn guest(update: &Update) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_with_a_failure_says_so() {
        let error = Err(anyhow::anyhow!("Host kernel (bug:): BUG: x"));
        let report = of(&Record::default(), &error);
        assert_eq!(report["result"], "failed");
        assert!(report["error"].as_str().unwrap().contains("BUG: x"));
    }
}
