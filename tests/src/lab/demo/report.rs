//! The machine-readable report of an update.

use serde_json::{Value, json};

use crate::proof::{self, Update};
use crate::run::Record;

/// One guest's update, or after a failure what is known about it. With several guests, that of the
/// one called `name`.
pub(super) fn of(record: &Record, update: &anyhow::Result<Update>, name: Option<&str>) -> Value {
    let mut report = match update {
        Ok(update) => of_guest(record, update),
        Err(error) => {
            let mut report = head(record, None);
            report["error"] = json!(format!("{error:#}"));
            report["guest"] = last_words(record, name);
            report
        }
    };
    if let Some(name) = name {
        report["name"] = json!(name);
    }
    report
}

/// The last event of a guest, in the form of [`guest`]'s report; null if there was none.
fn last_words(record: &Record, name: Option<&str>) -> Value {
    let wanted = name.map_or_else(|| "witness".into(), |name| format!("witness {name}"));
    let mut reports = record.values.iter().filter(|value| value.name == wanted);
    let Some(last) = reports.next_back() else {
        return Value::Null;
    };
    let alike = [
        "boot_id",
        "cpus",
        "pages_checked",
        "pages_bad",
        "counter_went_back",
        "largest_gap_ns",
        "largest_gap_tsc_ns",
        "kernel_warnings",
    ];
    let member = |name: &str| (name.to_owned(), last.value[name].clone());
    alike.into_iter().map(member).collect()
}

/// The report on a guest whose host was updated.
fn of_guest(record: &Record, update: &Update) -> Value {
    let mut report = head(record, Some(update));
    report["guest"] = guest(update);
    report["blackout"] = json!(update.blackout);
    report["home"] = json!(update.resume.home);
    if let Some(vmm) = &update.vmm {
        report["vmm"] = json!(vmm);
    }
    if let Some(traffic) = &update.traffic {
        traffic.describe(&mut report);
    }
    if let Some(lifeboat) = &update.lifeboat {
        report["lifeboat"] = json!(lifeboat);
    }
    if let Some(device) = &update.device {
        report["device"] = json!(device);
    }
    if let Some(iommu) = proof::iommu(record) {
        report["iommu"] = json!(iommu);
    }
    report
}

/// The result, and the host before and after: the guest's VMM reports which host the guest runs in
/// afterwards.
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
pub(super) use tests::{is_complete, run};

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fdbox_lab::event::Hello;

    use super::*;
    use crate::proof;

    #[test]
    fn a_run_with_a_failure_says_so() {
        let error = Err(anyhow::anyhow!("Host kernel (bug:): BUG: x"));
        let mut record = Record::default();
        let report = of(&record, &error, None);
        assert_eq!(report["result"], "failed");
        assert!(report["error"].as_str().unwrap().contains("BUG: x"));
        assert_eq!(report["guest"], Value::Null);
        // Including what the guest had sent by then.
        record.values.push(crate::run::Value {
            at: Duration::ZERO,
            name: "witness".into(),
            value: json!({"pages_checked": 9, "pages_bad": 1}),
        });
        let report = of(&record, &error, None);
        assert_eq!(report["guest"]["pages_bad"], 1);
    }

    /// The names that the demo's users rely on, and the values they must have after a successful
    /// run.
    const NAMES: &[(&str, &str)] = &[
        ("/result", "\"done\""),
        ("/host/kernel_before", "\"7.3-a\""),
        ("/host/kernel_after", "\"7.3-b\""),
        ("/host/boot_id_before", "\"g\""),
        ("/host/boot_id_after", "\"h\""),
        ("/guest/boot_id_same", "true"),
        ("/guest/ram_kind", "\"memfd\""),
        ("/guest/ram_mib", "256"),
        ("/guest/pages_checked", "100"),
        ("/guest/pages_bad", "0"),
        ("/guest/counter_went_back", "false"),
        ("/guest/largest_gap_ns", "3010000000"),
        ("/guest/kernel_warnings", "0"),
        ("/vmm/uid", "65534"),
        ("/vmm/capabilities", "0"),
        ("/vmm/seccomp", "2"),
        ("/blackout/total_ns", "3000000000"),
        ("/blackout/phases/0/name", "\"boot\""),
        ("/blackout/phases/0/ns", "2900000000"),
        ("/disk/writes", "100"),
        ("/disk/verified", "250"),
        ("/disk/bad", "0"),
        ("/tcp/reset", "false"),
        ("/tcp/bytes_sent", "768"),
        ("/tcp/bytes_lost", "0"),
        ("/tcp/bytes_repeated", "0"),
        ("/tcp/largest_gap_ns", "0"),
        ("/ping/largest_gap_ns", "1000000000"),
    ];

    /// A run from one kernel to another.
    pub(in super::super) fn run() -> Record {
        let hello = |stage, release: &str, boot_id: &str| Hello {
            stage,
            release: release.into(),
            version: String::new(),
            boot_id: boot_id.into(),
            uptime_ns: 0,
            tsc: 0,
        };
        let hellos = [hello(1, "7.3-a", "g"), hello(2, "7.3-b", "h")];
        let mut record = Record::default();
        record.hellos = hellos.map(|hello| (Duration::ZERO, hello)).into();
        record
    }

    /// Checks that a guest's report has all required members with the right values.
    pub(in super::super) fn is_complete(report: &Value) {
        for (name, wanted) in NAMES {
            let found = report.pointer(name);
            let found = found.unwrap_or_else(|| panic!("{name} is missing in {report:#}"));
            assert_eq!(found.to_string(), *wanted, "{name}");
        }
    }

    #[test]
    fn a_run_that_went_well_has_every_name_that_was_asked_for() {
        let mut record = run();
        let report = of(&record, &Ok(proof::with_traffic()), None);
        is_complete(&report);
        assert_eq!(report["iommu"], Value::Null);
        record.values.push(crate::run::Value {
            at: Duration::ZERO,
            name: "iommu".into(),
            value: json!("scalable"),
        });
        let report = of(&record, &Ok(proof::with_traffic()), None);
        assert_eq!(report["iommu"], "scalable");
    }
}
