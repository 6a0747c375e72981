//! A guest that ran in a lifeboat while its host kexeced.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Phase, Resume, Update};
use crate::run::Record;

/// What `vmm-example resume` reports of a guest that came from a lifeboat.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Reported {
    pub(crate) handovers: Vec<Handover>,
    io_gap_ns: u64,
    vcpu_time_in_boat_ns: u64,
}

/// A move of the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Handover {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) stop_to_run_ns: u64,
    #[serde(default)]
    pub(crate) phases: Vec<Phase>,
}

/// The same, with what the guest and the lab have seen.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Lifeboat {
    pub(crate) handovers: Vec<Handover>,
    /// By the guest's clock.
    pub(crate) guest_largest_gap_ns: u64,
    /// From the last moment of the old host's userspace to the first of the new one's.
    pub(crate) host_kexec_ns: u64,
    pub(crate) io_gap_ns: u64,
    pub(crate) vcpu_time_in_boat_ns: u64,
}

/// `None`: it was in no lifeboat.
pub(super) fn of(record: &Record, update: &Update) -> Result<Option<Lifeboat>> {
    let Resume {
        lifeboat: Some(reported),
        tsc_khz,
        ..
    } = &update.resume
    else {
        return Ok(None);
    };
    let left = record.values.iter().rfind(|value| value.name == "left");
    let left = left.and_then(|value| value.value.as_u64());
    let left = left.context("When the old host ended was not noted")?;
    let (_, hello) = record.hellos.last().context("No host was seen")?;
    let ticks = hello.tsc.checked_sub(left);
    let ticks = ticks.context("The new host began before the old one ended")?;
    let host_kexec_ns = ticks.saturating_mul(1_000_000) / u64::from(*tsc_khz).max(1);
    let gap = update.after.largest_gap_ns;
    let ways: Vec<_> = reported
        .handovers
        .iter()
        .map(|it| (&*it.from, &*it.to))
        .collect();
    ensure!(
        ways == [("host", "lifeboat"), ("lifeboat", "host")],
        "The guest's way was {ways:?}"
    );
    // Otherwise it did not run meanwhile.
    ensure!(
        gap < host_kexec_ns / 2,
        "The guest stood still for {} ms, and its host's kexec took {} ms",
        gap / 1_000_000,
        host_kexec_ns / 1_000_000
    );
    Ok(Some(Lifeboat {
        handovers: reported.handovers.clone(),
        guest_largest_gap_ns: gap,
        host_kexec_ns,
        io_gap_ns: reported.io_gap_ns,
        vcpu_time_in_boat_ns: reported.vcpu_time_in_boat_ns,
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fdbox_lab::event::Hello;
    use serde_json::json;

    use super::*;
    use crate::proof::with_traffic;
    use crate::run::Value;

    /// A host whose kexec took two seconds.
    fn record() -> Record {
        let mut record = Record::default();
        let hello = Hello {
            stage: 2,
            release: String::new(),
            version: String::new(),
            boot_id: String::new(),
            uptime_ns: 0,
            tsc: 5_000_000_000,
        };
        record.hellos.push((Duration::ZERO, hello));
        record.values.push(Value {
            at: Duration::ZERO,
            name: "left".into(),
            value: json!(3_000_000_000u64),
        });
        record
    }

    fn update(gap_ns: u64, back_to: &str) -> Update {
        let mut update = with_traffic();
        update.after.largest_gap_ns = gap_ns;
        let reported = json!({
            "handovers": [
                {"from": "host", "to": "lifeboat", "stop_to_run_ns": 100,
                 "phases": [{"name": "pause", "ns": 60}]},
                {"from": "lifeboat", "to": back_to, "stop_to_run_ns": 90},
            ],
            "io_gap_ns": 2_500_000_000u64,
            "vcpu_time_in_boat_ns": 1_000,
        });
        update.resume.lifeboat = Some(serde_json::from_value(reported).unwrap());
        update
    }

    #[test]
    fn programs_find_the_fields_they_were_promised() {
        let found = of(&record(), &update(150_000_000, "host"))
            .unwrap()
            .unwrap();
        let json = serde_json::to_value(found).unwrap();
        let expected = json!({
            "handovers": [
                {"from": "host", "to": "lifeboat", "stop_to_run_ns": 100,
                 "phases": [{"name": "pause", "ns": 60}]},
                {"from": "lifeboat", "to": "host", "stop_to_run_ns": 90, "phases": []},
            ],
            "guest_largest_gap_ns": 150_000_000,
            "host_kexec_ns": 2_000_000_000u64,
            "io_gap_ns": 2_500_000_000u64,
            "vcpu_time_in_boat_ns": 1_000,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_guest_that_stood_still_or_went_elsewhere_is_no_proof() {
        assert!(of(&record(), &update(1_100_000_000, "host")).is_err());
        assert!(of(&record(), &update(150_000_000, "lifeboat")).is_err());
        assert!(of(&Record::default(), &update(150_000_000, "host")).is_err());
        assert!(of(&record(), &with_traffic()).unwrap().is_none());
    }
}
