//! Follows one host from power-on to its verdict, across every kexec, and judges its output.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::event::{Event, Hello};
use fdbox_lab::scan;
use serde::de::DeserializeOwned;

use crate::frames::Sent;
use crate::landings::Landed;
use crate::lines::{Line, LineContent};
use crate::outside::Seen;
use crate::qemu::{Machine, Running, Silence};
use crate::toolchain::Toolchain;

/// From power-on, or from the jump, to the first message of lab-init.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// From the verdict to power-off.
const OFF_LIMIT: Duration = Duration::from_secs(30);

/// What to run, and the expected result.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub machine: &'a Machine,
    /// `uname -r` of each stage, in order.
    pub releases: &'a [String],
    /// The time limit for the commands of each stage.
    pub stage_limit: Duration,
}

/// Everything that the host sent.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub hellos: Vec<(Duration, Hello)>,
    /// (stage, command, status), in order.
    pub exits: Vec<(usize, usize, i32)>,
    /// Each line that the commands wrote, and the command that was running then.
    pub output: Vec<(Option<(usize, usize)>, String)>,
    pub scenarios: Vec<ScenarioStage>,
    pub values: Vec<Value>,
    pub guest: Vec<GuestLine>,
    /// What was seen of each guest from outside, by the guest's number.
    pub outside: Vec<Seen>,
    /// The frames sent to each of the host's devices.
    pub frames: Vec<Sent>,
    /// When each write reached the image of the NVMe drive.
    pub landed: Landed,
    /// Where the images of the host's drives are.
    pub dir: PathBuf,
    /// What went wrong with the run itself.
    pub failures: Vec<RunFailure>,
    /// When the machine went off.
    pub ended: Option<Duration>,
    running: Option<(usize, usize)>,
    /// What arrived on the event port but was not an event.
    noise: Vec<String>,
    verdict: bool,
}

impl Record {
    /// What went wrong, with the run itself and in its scenarios.
    pub(crate) fn faults(&self) -> Vec<String> {
        let failures = self.failures.iter().map(ToString::to_string);
        let scenarios = self.scenarios.iter();
        failures
            .chain(scenarios.filter_map(|stage| stage.error.clone()))
            .collect()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ScenarioStage {
    pub name: String,
    pub stage: usize,
    pub error: Option<String>,
    pub millis: u64,
}

/// A failure not reported by the commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunFailure {
    pub text: String,
    /// The command that was running then: its stage, and its number in it. `None` if there was
    /// none.
    pub during: Option<(usize, usize)>,
}

impl std::fmt::Display for RunFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Record {
    /// What was sent under a name, in the order in which it came.
    pub(crate) fn all_named<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        let values = self.values.iter().filter(|value| value.name == name);
        let values = values.map(|value| serde_json::from_value(value.value.clone()));
        values
            .collect::<Result<_, _>>()
            .with_context(|| format!("The values called {name} are not what was agreed"))
    }

    /// The output of a command.
    pub(crate) fn output_of(&self, stage: usize, command: usize) -> Vec<&str> {
        let its = |line: &&(Option<(usize, usize)>, String)| line.0 == Some((stage, command));
        self.output
            .iter()
            .filter(its)
            .map(|(_, text)| text.as_str())
            .collect()
    }

    pub(crate) fn fail(&mut self, text: String) {
        self.failures.push(RunFailure {
            text,
            during: self.running,
        });
    }

    /// Searches for a complaint in a line of the host's or a guest's kernel.
    fn scan(&mut self, whose: &str, text: &str) {
        self.complained(whose, scan::complaint(text), text);
    }

    fn complained(&mut self, whose: &str, complaint: Option<&str>, text: &str) {
        if let Some(word) = complaint {
            self.fail(format!("{whose} kernel ({word}): {text}"));
        }
    }

    /// A kernel has started.
    fn greet(&mut self, at: Duration, hello: &Hello) {
        // A kexec by a command truncates the current line: that is not a failure.
        let cut_off = |noise: &String| noise.starts_with('{');
        if hello.stage > 1 && self.noise.last().is_some_and(cut_off) {
            self.noise.pop();
        }
        self.running = None;
        self.hellos.push((at, hello.clone()));
    }

    fn judged(&mut self, error: Option<&str>) {
        if self.verdict {
            self.fail("A second verdict".to_owned());
        }
        self.verdict = true;
        if let Some(error) = error {
            self.fail(error.to_owned());
        }
    }

    /// Records an event that does not change what is waited for.
    fn note(&mut self, at: Duration, event: &Event) {
        match event {
            Event::Start { command } => self.running = Some((self.hellos.len(), *command)),
            Event::Exit { command, status } => {
                self.running = None;
                self.exits.push((self.hellos.len(), *command, *status));
            }
            Event::Guest { guest, text } => {
                self.scan("Guest", text);
                let (guest, text) = (guest.clone(), text.clone());
                self.guest.push(GuestLine { at, guest, text });
            }
            Event::Scenario {
                name,
                stage,
                error,
                millis,
            } => self.scenarios.push(ScenarioStage {
                name: name.clone(),
                stage: *stage,
                error: error.clone(),
                millis: *millis,
            }),
            Event::Value { name, value } => self.values.push(Value {
                at,
                name: name.clone(),
                value: value.clone(),
            }),
            Event::Output { text, .. } => self.output.push((self.running, text.clone())),
            Event::Hello(_) | Event::Jump | Event::Verdict { .. } => {}
        }
    }
}

/// A line that a guest wrote on its console.
#[derive(Debug, Clone)]
pub(crate) struct GuestLine {
    pub at: Duration,
    pub guest: String,
    pub text: String,
}

/// A result in the form of data.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub at: Duration,
    pub name: String,
    pub value: serde_json::Value,
}

impl Run<'_> {
    /// Runs the host to its end. `seen` gets each line as it arrives. Returns an error only for
    /// failures of the lab; failures of the host are in the record.
    pub(crate) fn follow(
        &self,
        toolchain: &Toolchain,
        dir: &Path,
        mut seen: impl FnMut(&Line),
    ) -> Result<Record> {
        let mut running = self.machine.start(toolchain, dir)?;
        let mut record = Record {
            dir: dir.to_owned(),
            ..Record::default()
        };
        let mut deadline = BOOT_LIMIT;
        let mut waiting_for = "the first word of the host's init".to_owned();
        loop {
            match running.line(deadline) {
                Ok(line) => {
                    seen(&line);
                    if let Some((limit, what)) = self.take(&mut record, &line) {
                        deadline = running.elapsed() + limit;
                        waiting_for = what;
                    }
                    if let LineContent::BoatEvent(Event::Verdict { .. }) = line.content {
                        // The host is dead, so nobody switches the machine off.
                        record.ended = Some(running.elapsed());
                        self.check_stages(&mut record);
                        return Ok(record);
                    }
                }
                Err(Silence::Off) => break,
                Err(Silence::Timeout) => {
                    let evidence = evidence(&mut running);
                    record.fail(format!("Timeout waiting for {waiting_for}; {evidence}"));
                    return Ok(record);
                }
            }
        }
        record.ended = Some(running.elapsed());
        record.outside = running.seen_from_outside()?;
        record.frames = running.attached.sent_frames();
        record.landed = running.attached.landed()?;
        if let Some(evidence) = running.reset()? {
            record.fail(format!(
                "The host was reset; where its CPUs were: {}",
                evidence.display()
            ));
        }
        if !record.verdict {
            record.fail(format!("The machine went off waiting for {waiting_for}"));
        }
        self.check_stages(&mut record);
        let noise = std::mem::take(&mut record.noise);
        for text in noise {
            record.fail(format!("Not an event, on the event port: {text}"));
        }
        Ok(record)
    }

    /// Records one line. Returns what to wait for from now on, and until when, if that changes.
    fn take(&self, record: &mut Record, line: &Line) -> Option<(Duration, String)> {
        let event = match &line.content {
            LineContent::Console(text) => {
                record.scan("Host", text);
                return None;
            }
            LineContent::Boat(text) => {
                record.complained("Boat", scan::complaint_in_a_boat(text), text);
                return None;
            }
            LineContent::Noise(text) => {
                record.noise.push(text.clone());
                return None;
            }
            LineContent::Closed => return None,
            LineContent::Event(event) | LineContent::BoatEvent(event) => event,
        };
        match event {
            Event::Hello(hello) => {
                record.greet(line.at, hello);
                let what = format!("the end of stage {}", hello.stage);
                Some((self.stage_limit, what))
            }
            Event::Jump => Some((
                BOOT_LIMIT,
                "the first word of the next kernel's init".to_owned(),
            )),
            Event::Verdict { error } => {
                record.judged(error.as_deref());
                Some((OFF_LIMIT, "power-off".to_owned()))
            }
            event => {
                record.note(line.at, event);
                None
            }
        }
    }

    /// The stages must be the planned ones: this detects a missing kexec, or one into the same
    /// kernel, whatever number is on the command line.
    fn check_stages(&self, record: &mut Record) {
        let hellos: Vec<&Hello> = record.hellos.iter().map(|(_, hello)| hello).collect();
        let mut wrong = Vec::new();
        if hellos.len() != self.releases.len() {
            wrong.push(format!(
                "{} kernels booted, not {}",
                hellos.len(),
                self.releases.len()
            ));
        }
        for (index, (hello, release)) in hellos.iter().zip(self.releases).enumerate() {
            if hello.stage != index + 1 {
                wrong.push(format!(
                    "Kernel {} says it is stage {}",
                    index + 1,
                    hello.stage
                ));
            }
            if hello.release != *release {
                wrong.push(format!(
                    "Stage {} runs {}, not {release}",
                    hello.stage, hello.release
                ));
            }
            if hellos[..index]
                .iter()
                .any(|earlier| earlier.boot_id == hello.boot_id)
            {
                wrong.push(format!(
                    "Stage {} has an earlier stage's boot_id",
                    hello.stage
                ));
            }
        }
        wrong.into_iter().for_each(|text| record.fail(text));
    }
}

fn evidence(running: &mut Running) -> String {
    match running.collect_evidence() {
        Ok(path) => format!("where it hangs: {}", path.display()),
        Err(error) => format!("and it does not say where it hangs: {error:#}"),
    }
}

/// Creates a folder for one run's logs, and removes the oldest ones of labs that have ended.
pub(crate) fn folder(cache: &crate::cache::Cache, name: &str) -> Result<PathBuf> {
    const KEEP: usize = 40;
    let runs = cache.dir("runs")?;
    let mut old: Vec<_> = std::fs::read_dir(&runs)?
        .filter_map(|entry| {
            Some((
                entry.as_ref().ok()?.metadata().ok()?.modified().ok()?,
                entry.ok()?.path(),
            ))
        })
        .collect();
    old.retain(|(_, path)| !is_in_use(path));
    old.sort();
    for (_, path) in old.iter().rev().skip(KEEP) {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            // Another lab with the same cache may have been faster.
            _ => {}
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let name = name.replace('/', "-");
    // Two hosts with the same first scenario can start in the same second.
    let dir = runs.join(format!("{}-{name}-{}", now.as_millis(), std::process::id()));
    std::fs::create_dir(&dir).context("Create a folder for the run")?;
    Ok(dir)
}

/// Whether the lab that created the folder, whose process id ends its name, still runs: its
/// failures refer to the folder.
fn is_in_use(folder: &Path) -> bool {
    let name = folder.to_string_lossy();
    let lab = name.rsplit_once('-').map_or("", |(_, lab)| lab);
    !lab.is_empty() && Path::new("/proc").join(lab).exists()
}

#[cfg(test)]
mod tests;
