//! Past updates of the host, from the reports of their resumes.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;

use super::{HostUpdate, Spread};
use crate::files;
use crate::service::report::{Blackout, ResumeReport};

/// What guests must have in common for their updates to be compared.
type Kind = (u64, String, u64, u64);

/// A row for each kind of guest. Reports from one boot of the host belong to guests that were
/// updated together.
pub(super) fn rows(paths: &[PathBuf]) -> anyhow::Result<Vec<HostUpdate>> {
    let reports: Vec<ResumeReport> = paths
        .iter()
        .map(|path| {
            let mut text = Vec::new();
            files::regular(path)
                .and_then(|mut file| file.read_to_end(&mut text))
                .with_context(|| format!("Cannot read {}", path.display()))?;
            serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} is not the report of a resume: name the files of `resume --report`",
                    path.display()
                )
            })
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(of(&reports))
}

fn of(reports: &[ResumeReport]) -> Vec<HostUpdate> {
    let mut kinds: BTreeMap<Kind, Vec<&Blackout>> = BTreeMap::new();
    for report in reports {
        let together = reports
            .iter()
            .filter(|other| other.host().is_boot_of(report.host()));
        let kind = (
            report.ram_mib(),
            report.ram_kind().to_string(),
            report.vcpus() as u64,
            together.count() as u64,
        );
        // Without the old host's marks its length is unknown.
        kinds.entry(kind).or_default().extend(report.blackout());
    }
    kinds.into_iter().filter_map(row).collect()
}

fn row(
    ((ram_mib, ram_kind, vcpus, guests), blackouts): (Kind, Vec<&Blackout>),
) -> Option<HostUpdate> {
    let blackout_ns = Spread::of(blackouts.iter().map(|blackout| blackout.total_ns))?;
    let middle = blackouts
        .iter()
        .find(|blackout| blackout.total_ns == blackout_ns.median)?;
    Some(HostUpdate {
        ram_mib,
        ram_kind,
        vcpus,
        guests,
        blackout_ns,
        phases: middle.phases.clone(),
        floor_ns: None,
        runs: blackouts.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(boot: &str, mib: u64, total_ns: Option<u64>) -> ResumeReport {
        let blackout = total_ns.map(
            |ns| serde_json::json!({"total_ns": ns, "phases": [{"name": "jump", "ns": ns / 2}]}),
        );
        serde_json::from_value(serde_json::json!({
            "result": "done", "box": "vm0", "guest": "vm0", "ram_kind": "memfd", "ram_mib": mib,
            "vcpus": 2, "tsc_khz": 1, "tsc_khz_before": 1, "host": {"boot_id": boot},
            "blackout": blackout, "before": [], "refused_msrs": [], "box_deleted": true,
        }))
        .unwrap()
    }

    #[test]
    fn guests_of_one_boot_went_together() {
        let reports = [
            report("a", 512, Some(10)),
            report("b", 512, Some(30)),
            report("c", 512, Some(20)),
            report("d", 512, Some(99)),
            report("d", 1024, Some(98)),
            report("e", 512, None),
        ];
        let rows = of(&reports);
        let read: Vec<_> = rows
            .iter()
            .map(|row| (row.ram_mib, row.guests, row.runs, row.blackout_ns.median))
            .collect();
        assert_eq!(read, [(512, 1, 3, 20), (512, 2, 1, 99), (1024, 2, 1, 98)]);
        assert_eq!(rows[0].phases[0].ns, 10, "the phases are of the median");
    }

    #[test]
    fn what_is_no_report_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm0.json");
        let error = format!("{:#}", rows(std::slice::from_ref(&path)).unwrap_err());
        assert!(error.contains("vm0.json"), "{error}");
        std::fs::write(&path, "{}").unwrap();
        let error = format!("{:#}", rows(&[path]).unwrap_err());
        assert!(error.contains("vm0.json is not the report"), "{error}");
    }
}
