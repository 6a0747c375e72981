//! The summary of the resume of all guests.

use std::fmt;

use serde::Serialize;
use vmm_fdbox::update::ExitStatus;

use crate::commands::table::table;
use crate::service::report::ResumeReport;

/// One guest.
#[derive(Debug, Serialize)]
pub(super) struct GuestEnd {
    /// Its box.
    #[serde(rename = "box")]
    pub(super) name: String,
    /// Its place in the order, if there is one.
    pub(super) position: Option<u32>,
    /// When the guest ran, counted from the start of all resumes.
    pub(super) ran_after_ns: Option<u64>,
    pub(super) exit_status: u8,
    pub(super) error: Option<String>,
    /// The report of its resume.
    pub(super) report: Option<Box<ResumeReport>>,
}

/// All guests.
#[derive(Debug, Serialize)]
pub(super) struct Total {
    result: &'static str,
    exit_status: u8,
    resumed: usize,
    failed: usize,
    /// The longest blackout of any guest.
    longest_blackout_ns: Option<u64>,
    guests: Vec<GuestEnd>,
}

impl Total {
    pub(super) fn of(guests: Vec<GuestEnd>) -> Self {
        let failed = guests.iter().filter(|guest| guest.exit_status != 0).count();
        let blackouts = guests
            .iter()
            .filter_map(|guest| Some(guest.report.as_ref()?.blackout()?.total_ns));
        Self {
            result: if failed == 0 { "done" } else { "failed" },
            exit_status: guests
                .iter()
                .map(|guest| guest.exit_status)
                .max()
                .unwrap_or(0),
            resumed: guests.len() - failed,
            failed,
            longest_blackout_ns: blackouts.max(),
            guests,
        }
    }

    /// The worst status of all.
    pub(super) fn exit_status(&self) -> ExitStatus {
        let all = [
            ExitStatus::Done,
            ExitStatus::Error,
            ExitStatus::NothingChanged,
            ExitStatus::GuestLost,
        ];
        all.into_iter()
            .find(|status| status.code() == self.exit_status)
            .unwrap_or(ExitStatus::Error)
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.guests.is_empty() {
            return writeln!(f, "No guest waits in a box");
        }
        let rows: Vec<_> = self.guests.iter().map(row).collect();
        let heading = ["GUEST", "RESULT", "STOOD STILL", "MESSAGE"];
        write!(f, "{}", table(heading, &rows))?;
        writeln!(f, "{} run, {} do not", self.resumed, self.failed)
    }
}

fn row(guest: &GuestEnd) -> [String; 4] {
    let blackout = guest.report.as_ref().and_then(|report| report.blackout());
    let millis = blackout.map(|blackout| format!("{:.1} ms", blackout.total_ns as f64 / 1e6));
    [
        guest.name.clone(),
        match guest.report {
            Some(_) => "runs".into(),
            None => format!("failed ({})", guest.exit_status),
        },
        millis.unwrap_or_else(|| "-".into()),
        guest.error.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_all_is_what_counts() {
        let end = |name: &str, status: ExitStatus| GuestEnd {
            name: name.into(),
            position: Some(0),
            ran_after_ns: None,
            exit_status: status.code(),
            error: Some("no KVM".into()),
            report: None,
        };
        let total = Total::of(vec![
            end("a", ExitStatus::Error),
            end("b", ExitStatus::NothingChanged),
        ]);
        assert_eq!(total.exit_status(), ExitStatus::NothingChanged);
        let json = serde_json::to_value(&total).unwrap();
        assert_eq!((&json["failed"], &json["resumed"]), (&2.into(), &0.into()));
        assert_eq!(json["guests"][1]["error"], "no KVM");
        assert!(total.to_string().contains("failed (10)"), "{total}");
        let total = Total::of(vec![end("a", ExitStatus::GuestLost)]);
        assert_eq!(total.exit_status(), ExitStatus::GuestLost);
    }

    #[test]
    fn nobody_to_resume_is_no_failure() {
        let total = Total::of(Vec::new());
        assert_eq!(total.exit_status(), ExitStatus::Done);
        assert!(total.to_string().contains("No guest waits"));
    }
}
