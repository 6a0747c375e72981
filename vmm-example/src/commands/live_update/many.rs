//! The operator's view of an update of many guests.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use vmm_fdbox::update::{Event, ExitStatus, FleetEvent, FleetOutcome, MemberOutcome, Step};
use vmm_fdbox::{Finding, Home};

use crate::commands::progress::Progress;
use crate::commands::table::table;
use crate::error::printable;
use crate::service::update_message::{UpdateEvent, UpdateMessage};

/// Shows events to a person or a program.
#[derive(Clone, Debug)]
pub(super) struct Many {
    json: bool,
    /// In tests nobody reads the output.
    silent: bool,
    screen: Arc<Mutex<Screen>>,
}

#[derive(Debug, Default)]
struct Screen {
    step: String,
    done: usize,
    progress: Option<Progress>,
    /// Guests are paused: do not wait for a terminal now.
    hold: bool,
    held: Vec<String>,
}

/// Shows progress until it is dropped.
#[derive(Debug)]
pub(super) struct Ticker(Many);

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.screen().progress = None;
    }
}

/// A guest's event, in JSON.
#[derive(Serialize)]
struct GuestLine<'a> {
    guest: &'a str,
    #[serde(flatten)]
    message: UpdateMessage,
}

/// The result, in JSON.
#[derive(Debug, Serialize)]
struct End<'a> {
    reply: &'static str,
    result: &'static str,
    exit_status: u8,
    message: String,
    failed_step: Option<&'static str>,
    guests: Vec<GuestEnd<'a>>,
    findings: Vec<Finding>,
    problems: &'a [String],
}

#[derive(Debug, Serialize)]
struct GuestEnd<'a> {
    name: &'a str,
    result: &'static str,
    message: Option<&'a str>,
    paused_ns: Option<u64>,
    findings: Vec<Finding>,
}

impl Many {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            silent: cfg!(test),
            screen: Arc::default(),
        }
    }

    pub(super) fn ticker(&self) -> Ticker {
        if !self.json {
            self.screen().progress = Some(Progress::start());
        }
        Ticker(self.clone())
    }

    pub(super) fn home(&self, home: Home) {
        let event = UpdateEvent::home(home);
        if self.json {
            self.json_line(&serde_json::json!({
                "reply": "fleet-event", "event": "home", "guest": null, "message": event.message,
            }));
        } else {
            self.line(&format!("all: {event}"));
        }
    }

    /// The lifeboat has a guest.
    pub(super) fn aboard(&self, name: &str, time: Duration) {
        let event = UpdateEvent::aboard(0, name, time);
        if self.json {
            self.json_line(&serde_json::json!({
                "reply": "fleet-event", "event": "aboard", "guest": name, "message": event.message,
            }));
        } else {
            self.line(&format!("{name}: {event}"));
        }
    }

    /// A guest has done a step, or a part of one.
    fn guest_done(&self, step: Step) {
        let mut screen = self.screen();
        if screen.step != step.name() {
            return;
        }
        screen.done += 1;
        if screen.hold {
            return;
        }
        let text = format!("{}: {} guests done", screen.step, screen.done);
        if let Some(progress) = &screen.progress {
            progress.say(&text);
        }
    }

    pub(super) fn guest_event(&self, guest: &str, ns: u64, event: &Event) {
        let message = UpdateEvent::new(ns, event);
        if self.json {
            let message = UpdateMessage::Event(message);
            self.json_line(&GuestLine { guest, message });
        } else {
            self.line(&format!("{guest}: {message}"));
        }
        if let Event::Done(step) = event {
            self.guest_done(*step);
        }
    }

    pub(super) fn fleet_event(&self, event: &FleetEvent<'_>) {
        if let FleetEvent::Started(step) = event {
            let mut screen = self.screen();
            (screen.step, screen.done) = (step.name().into(), 0);
        }
        let (kind, guest, text) = match event {
            FleetEvent::Started(step) => ("started", None, format!("{step} ...")),
            FleetEvent::Done(step) => ("done", None, format!("{step} done")),
            FleetEvent::SetDown(name, Ok(())) => {
                let text = format!("{name} is stopped, and its disks are synced");
                ("set-down", Some(*name), text)
            }
            FleetEvent::SetDown(name, Err(why)) => {
                let text = format!("{name} runs until the jump cuts it off: {why}");
                ("not-set-down", Some(*name), text)
            }
            FleetEvent::NotReady(name, stopped) => {
                let text = format!("{name} is not ready and left behind: {}", stopped.message);
                ("left-behind", Some(*name), text)
            }
            FleetEvent::Warning(finding) => ("warning", None, format!("warning: {finding}")),
            FleetEvent::RollingBack => ("rolling-back", None, "rolling back".into()),
            _ => return,
        };
        if self.json {
            self.json_line(&serde_json::json!({
                "reply": "fleet-event", "event": kind, "guest": guest, "message": text,
            }));
        } else {
            self.line(&format!("all: {text}"));
        }
        match event {
            FleetEvent::Started(Step::Pause) => self.screen().hold = true,
            FleetEvent::RollingBack => self.release(),
            _ => {}
        }
    }

    /// Shows the events that were held back.
    fn release(&self) {
        let mut screen = self.screen();
        screen.hold = false;
        let held = std::mem::take(&mut screen.held);
        drop(screen);
        held.iter().for_each(|line| self.line(line));
    }

    /// Shows the result, if the host was not left.
    pub(super) fn end(&self, outcome: &FleetOutcome, dry_run: bool) {
        self.release();
        let end = end(outcome, dry_run);
        if self.json {
            self.json_line(&end);
            return;
        }
        let text = text(outcome, &end);
        if end.exit_status == ExitStatus::Done.code() {
            self.line(text.trim_end());
        } else {
            let _ = write!(io::stderr(), "{}", printable(&text));
        }
    }

    fn json_line(&self, value: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(value) {
            self.line(&line);
        }
    }

    fn line(&self, line: &str) {
        let mut screen = self.screen();
        if screen.hold {
            screen.held.push(line.into());
            return;
        }
        // If nobody reads the output, the update goes on.
        let write = || _ = (!self.silent).then(|| writeln!(io::stdout(), "{}", printable(line)));
        match &screen.progress {
            Some(progress) => progress.suspend(write),
            None => write(),
        }
    }

    fn screen(&self) -> std::sync::MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(outcome: &FleetOutcome, dry_run: bool) -> End<'_> {
    let status = outcome.exit_status();
    let message = match &outcome.failure {
        Some((step, why)) => format!("{step} failed: {why}"),
        None if dry_run => "Nothing prevents this update; nothing was changed".into(),
        None => "Handed over".into(),
    };
    End {
        reply: "fleet-end",
        result: match status {
            ExitStatus::Done if dry_run => "ready",
            status => result(status),
        },
        exit_status: status.code(),
        message,
        failed_step: outcome.failure.as_ref().map(|(step, _)| step.name()),
        guests: outcome
            .members
            .iter()
            .map(|member| guest_end(member, outcome, dry_run))
            .collect(),
        findings: outcome.findings.clone(),
        problems: &outcome.problems,
    }
}

fn guest_end<'a>(member: &'a MemberOutcome, outcome: &FleetOutcome, dry_run: bool) -> GuestEnd<'a> {
    let stopped = member.stopped.as_ref();
    GuestEnd {
        name: &member.name,
        result: match stopped {
            None if dry_run => "ready",
            None => "handed-over",
            Some(_) if member.not_ready && outcome.failure.is_none() => "left-behind",
            Some(stopped) => result(stopped.status),
        },
        message: stopped.map(|stopped| stopped.message.as_str()),
        paused_ns: stopped.and_then(|stopped| stopped.paused_ns),
        findings: member.findings.clone(),
    }
}

fn result(status: ExitStatus) -> &'static str {
    match status {
        ExitStatus::Done => "handed-over",
        ExitStatus::Error => "error",
        ExitStatus::NothingChanged => "nothing-changed",
        ExitStatus::RolledBack => "rolled-back",
        ExitStatus::GuestLost => "guest-lost",
        ExitStatus::WaitsInBox => "waits-in-box",
    }
}

fn text(outcome: &FleetOutcome, end: &End<'_>) -> String {
    let mut text = format!("{}: {}\n", end.result, end.message);
    let findings: Vec<_> = outcome
        .members
        .iter()
        .flat_map(|member| member.findings.iter().map(|f| (member.name.as_str(), f)))
        .collect();
    let of_host = outcome.findings.iter().map(|finding| ("(host)", finding));
    let rows: Vec<_> = of_host.chain(findings).map(finding_row).collect();
    if !rows.is_empty() {
        let heading = ["GUEST", "SEVERITY", "WHAT", "PROBLEM", "WHAT TO DO"];
        text += &table(heading, &rows);
    }
    let rows: Vec<_> = end
        .guests
        .iter()
        .map(|guest| {
            let stood = guest
                .paused_ns
                .map(|ns| format!("{:.3} ms", ns as f64 / 1e6));
            [
                guest.name.into(),
                guest.result.into(),
                stood.unwrap_or_else(|| "-".into()),
                guest.message.unwrap_or_default().into(),
            ]
        })
        .collect();
    text += &table(["GUEST", "RESULT", "STOOD STILL", "MESSAGE"], &rows);
    for problem in end.problems {
        text += &format!("{problem}\n");
    }
    text
}

fn finding_row((guest, finding): (&str, &Finding)) -> [String; 5] {
    let severity = if finding.is_blocker() {
        "blocker"
    } else {
        "warning"
    };
    [
        guest.into(),
        severity.into(),
        finding.subject.clone(),
        finding.problem.clone(),
        finding.remedy.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_fdbox::update::Stopped;

    fn outcome() -> FleetOutcome {
        let blocker = Finding::blocker("Box vm1", "there is one already", "delete it");
        let stopped = Stopped {
            findings: vec![blocker.clone()],
            ..Stopped::untouched("Nothing changed: preflight failed")
        };
        FleetOutcome {
            failure: Some((Step::Preflight, "vm1: no".into())),
            cancelled: false,
            members: vec![
                MemberOutcome {
                    name: "vm0".into(),
                    stopped: None,
                    not_ready: false,
                    report: None,
                    findings: Vec::new(),
                },
                MemberOutcome {
                    name: "vm1".into(),
                    stopped: Some(stopped),
                    not_ready: true,
                    report: None,
                    findings: vec![blocker],
                },
            ],
            findings: vec![Finding::blocker("kexec", "it is off", "switch it on")],
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_dry_run_names_every_blocker_as_table_and_json() {
        let outcome = outcome();
        let end = end(&outcome, true);
        let json = serde_json::to_value(&end).unwrap();
        assert_eq!(json["exit_status"], 10);
        assert_eq!(json["guests"][0]["result"], "ready");
        assert_eq!(json["guests"][1]["result"], "nothing-changed");
        assert_eq!(json["guests"][1]["findings"][0]["subject"], "Box vm1");
        assert_eq!(json["findings"][0]["remedy"], "switch it on");
        let text = text(&outcome, &end);
        assert!(
            text.contains("(host)  blocker   kexec    it is off"),
            "{text}"
        );
        assert!(text.contains("vm1     blocker   Box vm1"), "{text}");
    }

    #[test]
    fn who_is_left_behind_is_named() {
        let outcome = FleetOutcome {
            failure: None,
            findings: Vec::new(),
            ..outcome()
        };
        let json = serde_json::to_value(end(&outcome, false)).unwrap();
        assert_eq!(json["exit_status"], 0);
        assert_eq!(json["guests"][0]["result"], "handed-over");
        assert_eq!(json["guests"][1]["result"], "left-behind");
    }
}
