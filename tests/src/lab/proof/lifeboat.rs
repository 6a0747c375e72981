//! A guest that ran in a lifeboat while its host kexeced.

use anyhow::{Context, Result, ensure};
use fdbox_lab::event::Hello;
use serde::{Deserialize, Serialize};

use super::{Phase, Resume, Update, shortest_gap_ns};
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
    /// The same between two frames that it got from a passed-through card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frames_largest_gap_ns: Option<u64>,
    /// From the last moment of the old host's userspace to the first of the new one's.
    pub(crate) host_kexec_ns: u64,
    pub(crate) io_gap_ns: u64,
    pub(crate) vcpu_time_in_boat_ns: u64,
}

/// `None`: it was in no lifeboat.
pub(super) fn of(record: &Record, update: &Update) -> Result<Option<Lifeboat>> {
    let Some(reported) = &update.resume.lifeboat else {
        return Ok(None);
    };
    let (_, hello) = record.hellos.last().context("No host was seen")?;
    let host_kexec_ns = kexec_ns(record, hello, &update.resume)?;
    let ways: Vec<_> = reported
        .handovers
        .iter()
        .map(|it| (&*it.from, &*it.to))
        .collect();
    ensure!(
        ways == [("host", "lifeboat"), ("lifeboat", "host")],
        "The guest's way was {ways:?}"
    );
    let gap = update.after.largest_gap_ns;
    is_short("The guest stood still", gap, host_kexec_ns)?;
    let frames = update.after.frames.as_ref();
    let frames_gap = frames.map(|frames| frames.largest_gap_ns);
    if let Some(gap) = frames_gap {
        is_short("The guest got no frame", gap, host_kexec_ns)?;
        // While it is stopped it cannot get any: a gap that is too short was not measured.
        ensure!(
            gap >= shortest_gap_ns(update.blackout.total_ns),
            "The guest got frames every {} ms, and was stopped for {} ms",
            gap / 1_000_000,
            update.blackout.total_ns / 1_000_000
        );
    }
    Ok(Some(Lifeboat {
        handovers: reported.handovers.clone(),
        guest_largest_gap_ns: gap,
        frames_largest_gap_ns: frames_gap,
        host_kexec_ns,
        io_gap_ns: reported.io_gap_ns,
        vcpu_time_in_boat_ns: reported.vcpu_time_in_boat_ns,
    }))
}

/// How long the kexec took to the host that this is the first word of.
pub(super) fn kexec_ns(record: &Record, hello: &Hello, resume: &Resume) -> Result<u64> {
    let left = record.values.iter().rfind(|value| value.name == "left");
    let left = left.and_then(|value| value.value.as_u64());
    let left = left.context("When the old host ended was not noted")?;
    let ticks = hello.tsc.checked_sub(left);
    let ticks = ticks.context("The new host began before the old one ended")?;
    Ok(ticks.saturating_mul(1_000_000) / u64::from(resume.tsc_khz).max(1))
}

/// A gap as long as the kexec, or nearly, would mean that something waited for the host.
fn is_short(what: &str, gap_ns: u64, kexec_ns: u64) -> Result<()> {
    ensure!(
        gap_ns < kexec_ns / 2,
        "{what} for {} ms, and its host's kexec took {} ms",
        gap_ns / 1_000_000,
        kexec_ns / 1_000_000
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fdbox_lab::frame::Counted;
    use serde_json::json;

    use super::*;
    use crate::proof::device::{Evidence, Standstill};
    use crate::proof::with_traffic;
    use crate::run::Value;

    /// A host whose kexec took two seconds.
    fn record() -> Record {
        let mut record = Record::default();
        let hello = Hello {
            stage: 2,
            release: String::new(),
            version: String::new(),
            boot_id: "h".into(),
            uptime_ns: 500_000_000,
            tsc: 5_000_000_000,
        };
        record.hellos.push((Duration::from_secs(10), hello));
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
        update.blackout.total_ns = 100_000_000;
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
    fn its_device_is_without_a_host_for_as_long_as_the_kexec_takes() {
        let (record, update) = (record(), update(150_000_000, "host"));
        let evidence = Evidence {
            record: &record,
            ending: "",
            resume: &update.resume,
            blackout: &update.blackout,
        };
        let Standstill { from, kernel, to } = evidence.standstill().unwrap();
        let millis = [from, kernel, to].map(|at| at.as_millis());
        assert_eq!(millis, [8000, 9500, 10_000]);
    }

    #[test]
    fn a_card_that_waited_for_the_host_is_no_proof() {
        let with_gap = |gap_ns| {
            let mut update = update(150_000_000, "host");
            update.after.frames = Some(Counted {
                largest_gap_ns: gap_ns,
                ..Counted::default()
            });
            of(&record(), &update)
        };
        let found = with_gap(200_000_000).unwrap().unwrap();
        assert_eq!(found.frames_largest_gap_ns, Some(200_000_000));
        let error = with_gap(1_100_000_000).unwrap_err().to_string();
        assert!(error.contains("got no frame for 1100 ms"), "{error}");
        // Less than it was stopped for.
        assert!(with_gap(90_000_000).is_err());
    }

    #[test]
    fn a_guest_that_stood_still_or_went_elsewhere_is_no_proof() {
        assert!(of(&record(), &update(1_100_000_000, "host")).is_err());
        assert!(of(&record(), &update(150_000_000, "lifeboat")).is_err());
        assert!(of(&Record::default(), &update(150_000_000, "host")).is_err());
        assert!(of(&record(), &with_traffic()).unwrap().is_none());
    }
}
