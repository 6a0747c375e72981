//! The operator's view of an update of one guest.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vmm_fdbox::update::{
    CancelFlag, Event, ExitStatus, FleetEvent, FleetOutcome, MemberOutcome, Step, Stopped,
};
use vmm_fdbox::{Finding, Home};

use crate::commands::progress::Progress;
use crate::commands::report_file::write_report;
use crate::commands::table::table;
use crate::error::{chain, say, warn};
use crate::service::report::ResumeReport;
use crate::service::update_message::{
    EventKind, UpdateEnd, UpdateEvent, UpdateMessage, UpdateResult,
};

/// Shows events to a person or a program.
#[derive(Debug)]
pub(super) struct One {
    began: Instant,
    /// For a person; `None` for a program.
    progress: Option<Progress>,
    report: Option<PathBuf>,
    cancel_after: Option<Step>,
    cancel: CancelFlag,
}

impl One {
    pub(super) fn new(
        json: bool,
        report: Option<PathBuf>,
        cancel_after: Option<Step>,
        cancel: CancelFlag,
    ) -> Self {
        Self {
            began: Instant::now(),
            progress: (!json).then(Progress::start),
            report,
            cancel_after,
            cancel,
        }
    }

    pub(super) fn home(&self, home: Home) {
        self.show_event(UpdateEvent::home(home));
    }

    /// Reports that the lifeboat has the guest.
    pub(super) fn aboard(&self, name: &str, time: Duration) {
        let ns = self.began.elapsed().as_nanos() as u64;
        self.show_event(UpdateEvent::aboard(ns, name, time));
    }

    /// Shows an event of the guest's VMM, which does not load the kernel.
    pub(super) fn guest_event(&mut self, ns: u64, event: &Event) {
        if let Event::Done(step) = event
            && Some(*step) == self.cancel_after
        {
            self.cancel.cancel();
        }
        match event {
            Event::Started(Step::LoadKernel) | Event::Done(Step::LoadKernel) => {}
            event => self.tell(ns, event),
        }
    }

    /// Shows an event of this process.
    pub(super) fn fleet_event(&mut self, event: &FleetEvent<'_>) {
        let event = match event {
            FleetEvent::Warning(finding) => Event::Warning((*finding).clone()),
            FleetEvent::Started(Step::LoadKernel) => Event::Started(Step::LoadKernel),
            FleetEvent::Done(Step::LoadKernel) => {
                if self.cancel_after == Some(Step::LoadKernel) {
                    self.cancel.cancel();
                }
                Event::Done(Step::LoadKernel)
            }
            _ => return,
        };
        self.tell_now(&event);
    }

    fn tell_now(&mut self, event: &Event) {
        let ns = self.began.elapsed().as_nanos() as u64;
        self.tell(ns, event);
    }

    fn tell(&mut self, ns: u64, event: &Event) {
        self.show_event(UpdateEvent::new(ns, event));
    }

    fn show_event(&self, event: UpdateEvent) {
        match &self.progress {
            None => print_json(&UpdateMessage::Event(event)),
            Some(progress) => show(&event, progress),
        }
    }

    /// Shows the result.
    pub(super) fn end(&mut self, outcome: &FleetOutcome, dry_run: bool) {
        let Some(member) = outcome.members.first() else {
            return;
        };
        if let Some((step, why)) = &outcome.failure
            && matches!(step, Step::LoadKernel | Step::Jump)
            && !member.not_ready
        {
            self.tell_now(&Event::Failed(*step, why.clone()));
        }
        let end = end(outcome, member, dry_run);
        if let (Some(path), Some(content)) = (&self.report, &end.report)
            && let Err(error) = write_report(path, &content.to_string())
        {
            // The update itself is unaffected by this.
            warn(&format!(
                "The guest runs, but its report is lost: {}",
                chain(error.as_ref())
            ));
        }
        match self.progress.take() {
            None => print_json(&UpdateMessage::UpdateEnd(end)),
            Some(progress) => {
                drop(progress);
                print_end(&end);
            }
        }
    }
}

/// The result as reported.
fn end(outcome: &FleetOutcome, member: &MemberOutcome, dry_run: bool) -> UpdateEnd {
    let findings = outcome.findings.iter().chain(&member.findings);
    let findings: Vec<Finding> = findings.cloned().collect();
    let stopped = member.stopped.as_ref();
    let end = match (&outcome.failure, stopped) {
        (Some((step, why)), stopped) => {
            let untouched = Stopped::untouched("Nothing changed");
            let stopped = stopped.unwrap_or(&untouched);
            match member.not_ready {
                true => failed_by_itself(outcome, stopped, *step),
                false => failed(outcome, stopped, *step, why),
            }
        }
        // It should have been handed over, but was not.
        (None, Some(stopped)) => failed_by_itself(outcome, stopped, Step::Jump),
        (None, None) if dry_run => UpdateEnd::ready(),
        (None, None) => match &member.report {
            Some(report) => {
                let text = serde_json::from_value(report.clone());
                let text = text.map(|report: ResumeReport| report.to_string());
                let text = text.unwrap_or_else(|_| format!("Guest {} continues", member.name));
                UpdateEnd::done(report.clone(), text)
            }
            None => UpdateEnd::handed_over(),
        },
    };
    UpdateEnd { findings, ..end }
}

/// The guest's VMM failed, or was cancelled there: it explains best itself why.
fn failed_by_itself(outcome: &FleetOutcome, stopped: &Stopped, step: Step) -> UpdateEnd {
    // Its own problems are in its message.
    let problems = listed(&outcome.problems);
    UpdateEnd {
        message: format!("{}{problems}", stopped.message),
        cancelled: stopped.cancelled,
        failed_step: Some(stopped.step.unwrap_or(step).name().into()),
        error: stopped.error.clone(),
        ..with_result(outcome, stopped)
    }
}

/// This process failed, or was cancelled.
fn failed(outcome: &FleetOutcome, stopped: &Stopped, step: Step, why: &str) -> UpdateEnd {
    let end = with_result(outcome, stopped);
    let became = match end.result {
        UpdateResult::RolledBack => "Rolled back, the guest continues",
        UpdateResult::GuestLost => "Guest lost",
        UpdateResult::WaitsInBox => "The guest waits in its box, for a resume",
        _ => "Nothing changed",
    };
    let problems = listed(&end.problems);
    UpdateEnd {
        message: format!("{became}: {step} failed: {why}{problems}"),
        cancelled: outcome.cancelled,
        failed_step: Some(step.name().into()),
        error: Some(why.to_owned()),
        ..end
    }
}

fn listed(problems: &[String]) -> String {
    problems
        .iter()
        .map(|problem| format!("; {problem}"))
        .collect()
}

fn with_result(outcome: &FleetOutcome, stopped: &Stopped) -> UpdateEnd {
    let status = outcome.exit_status();
    let problems = stopped.problems.iter().chain(&outcome.problems);
    UpdateEnd {
        result: match status {
            ExitStatus::RolledBack => UpdateResult::RolledBack,
            ExitStatus::GuestLost => UpdateResult::GuestLost,
            ExitStatus::WaitsInBox => UpdateResult::WaitsInBox,
            _ => UpdateResult::NothingChanged,
        },
        exit_status: status.code(),
        problems: problems.cloned().collect(),
        paused_ns: stopped.paused_ns,
        ..UpdateEnd::ready()
    }
}

fn print_json(message: &UpdateMessage) {
    if let Ok(line) = serde_json::to_string(message) {
        say(&line);
    }
}

/// Shows an event, and the activity that follows it.
fn show(event: &UpdateEvent, progress: &Progress) {
    progress.suspend(|| say(&event.to_string()));
    let step = event.step.as_deref().unwrap_or_default();
    match (event.event, step) {
        // Nothing is written during the blackout.
        (EventKind::Started, "pause") => progress.say(""),
        (EventKind::Started, step) => progress.say(step),
        (EventKind::Progress, step) => {
            progress.say(&format!(
                "{step}: {}",
                event.message.as_deref().unwrap_or_default()
            ));
        }
        _ => progress.say(""),
    }
}

/// Prints the final message, on standard output if the update succeeded.
fn print_end(end: &UpdateEnd) {
    let severity = |found: &Finding| match found.is_blocker() {
        true => "blocker",
        false => "warning",
    };
    let rows: Vec<_> = end
        .findings
        .iter()
        .map(|found| {
            [
                severity(found).to_owned(),
                found.subject.clone(),
                found.problem.clone(),
                found.remedy.clone(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        say(table(["SEVERITY", "WHAT", "PROBLEM", "WHAT TO DO"], &rows).trim_end());
    }
    if end.exit_status == ExitStatus::Done.code() {
        say(end.message.trim_end());
        return;
    }
    warn(&end.message);
    if let Some(ns) = end.paused_ns {
        let millis = ns as f64 / 1e6;
        // If standard error is closed, there is nobody to tell.
        let _ = writeln!(io::stderr(), "The guest was paused for {millis:.3} ms");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use serde_json::json;

    fn outcome(failure: Option<(Step, &str)>, stopped: Option<Stopped>) -> FleetOutcome {
        let member = MemberOutcome {
            name: "vm0".into(),
            not_ready: stopped
                .as_ref()
                .is_some_and(|stopped| stopped.error.is_some()),
            stopped,
            report: None,
            findings: vec![Finding::warning("TSC", "it wavers", "buy another")],
        };
        FleetOutcome {
            failure: failure.map(|(step, why)| (step, why.to_owned())),
            cancelled: false,
            members: vec![member],
            findings: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn end_of(outcome: &FleetOutcome, dry_run: bool) -> UpdateEnd {
        end(outcome, &outcome.members[0], dry_run)
    }

    #[test]
    fn a_dry_run_and_a_guest_that_has_left_are_told_apart() {
        let done = outcome(None, None);
        let ready = end_of(&done, true);
        assert_eq!((ready.result, ready.exit_status), (UpdateResult::Ready, 0));
        assert_eq!(ready.findings.len(), 1);
        assert_eq!(end_of(&done, false).result, UpdateResult::HandedOver);
    }

    #[test]
    fn whoever_failed_says_why() {
        let stopped = Stopped {
            status: ExitStatus::RolledBack,
            step: Some(Step::PutFds),
            error: Some("no".into()),
            ..Stopped::untouched("Rolled back, the guest continues: put-fds failed: no")
        };
        let end = end_of(
            &outcome(Some((Step::Seal, "vm0: no")), Some(stopped)),
            false,
        );
        assert_eq!(
            (end.result, end.exit_status),
            (UpdateResult::RolledBack, 11)
        );
        assert_eq!(end.failed_step.as_deref(), Some("put-fds"));
        assert_eq!(
            end.message,
            "Rolled back, the guest continues: put-fds failed: no"
        );

        let stopped = Stopped {
            status: ExitStatus::RolledBack,
            cancelled: true,
            paused_ns: Some(5),
            ..Stopped::untouched("Continues")
        };
        let rolled_back = Some(stopped);
        let end = end_of(
            &outcome(Some((Step::Jump, "EBUSY")), rolled_back.clone()),
            false,
        );
        assert_eq!(
            end.message,
            "Rolled back, the guest continues: jump failed: EBUSY"
        );
        assert_eq!((end.cancelled, end.paused_ns), (false, Some(5)));
        // A guest may have any name.
        let failure = Some((Step::Pause, "Cancelled: its VMM is gone"));
        let mut failed = outcome(failure, rolled_back);
        assert!(!end_of(&failed, false).cancelled);
        failed.cancelled = true;
        assert!(end_of(&failed, false).cancelled);
    }

    #[test]
    fn what_else_is_wrong_is_said_whoever_failed() {
        for by_itself in [true, false] {
            let stopped = Stopped {
                status: ExitStatus::RolledBack,
                error: by_itself.then(|| "no".into()),
                ..Stopped::untouched("Rolled back")
            };
            let mut failed = outcome(Some((Step::Pause, "vm0: no")), Some(stopped));
            failed.problems.push("The next kernel stays loaded".into());
            let end = end_of(&failed, false);
            assert!(
                end.message.ends_with("; The next kernel stays loaded"),
                "{}",
                end.message
            );
        }
    }

    #[test]
    fn a_report_that_cannot_be_written_is_no_failure_of_the_update() {
        let dir = tempfile::tempdir().unwrap();
        let message = |report: &Path| {
            let mut outcome = outcome(None, None);
            outcome.members[0].report = Some(json!({"result": "done"}));
            One::new(true, Some(report.into()), None, CancelFlag::new()).end(&outcome, false);
            outcome.exit_status()
        };
        for report in ["/dev/full", "/no/such/folder/report"] {
            assert_eq!(message(Path::new(report)), ExitStatus::Done, "{report}");
        }
        let report = dir.path().join("report");
        message(&report);
        assert_eq!(
            fs::read_to_string(report).unwrap(),
            "{\"result\":\"done\"}\n"
        );
    }
}
