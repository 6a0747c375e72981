//! Follows one host from power-on to its verdict, across every kexec, and judges what it said.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::event::{Event, Hello};
use fdbox_lab::scan;

use crate::frames::Sent;
use crate::outside::Seen;
use crate::qemu::{Line, Machine, Running, Said, Silence};
use crate::toolchain::Toolchain;

/// From power-on, or from the jump, to the first word of lab-init.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// From the verdict to power-off.
const OFF_LIMIT: Duration = Duration::from_secs(30);

/// What is to be run and what must come of it.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub machine: &'a Machine,
    /// `uname -r` of each stage, in order.
    pub releases: &'a [String],
    /// Within which each stage must be done with its commands.
    pub stage_limit: Duration,
}

/// All that the host said.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub hellos: Vec<(Duration, Hello)>,
    /// (stage, command, status), in order.
    pub exits: Vec<(usize, usize, i32)>,
    /// Each line the commands wrote, and which of them was running.
    pub output: Vec<(Option<(usize, usize)>, String)>,
    pub scenarios: Vec<ScenarioStage>,
    pub values: Vec<Value>,
    pub guest: Vec<(Duration, String)>,
    /// What the outside saw of each guest, by the guest's number.
    pub outside: Vec<Seen>,
    /// What was sent to each of the host's devices.
    pub frames: Vec<Sent>,
    /// Where the images of the host's drives are.
    pub dir: PathBuf,
    /// What is wrong with the run itself.
    pub failures: Vec<Failure>,
    /// When the machine was off.
    pub ended: Option<Duration>,
    running: Option<(usize, usize)>,
    /// What came on the event port and was no event.
    noise: Vec<String>,
    verdict: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct ScenarioStage {
    pub name: String,
    pub stage: usize,
    pub error: Option<String>,
    pub millis: u64,
}

/// Something that went wrong beside what the commands say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub text: String,
    /// The command that ran at that time: its stage, and its number in it. None while none ran.
    pub during: Option<(usize, usize)>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Record {
    /// What a command wrote.
    pub(crate) fn output_of(&self, stage: usize, command: usize) -> Vec<&str> {
        let its = |line: &&(Option<(usize, usize)>, String)| line.0 == Some((stage, command));
        self.output
            .iter()
            .filter(its)
            .map(|(_, text)| text.as_str())
            .collect()
    }

    fn fail(&mut self, text: String) {
        self.failures.push(Failure {
            text,
            during: self.running,
        });
    }
}

/// A result that is data.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub at: Duration,
    pub name: String,
    pub value: serde_json::Value,
}

impl Run<'_> {
    /// Runs the host to its end. `seen` is shown each line as it comes. An error is one of the
    /// lab's own; what the host did wrong is in the record.
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
        record.frames = running.sent_frames();
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

    /// Notes one line. Returns what is waited for from now on, and for how long, if that changes.
    fn take(&self, record: &mut Record, line: &Line) -> Option<(Duration, String)> {
        let text = match &line.said {
            Said::Console(text) => {
                if let Some(word) = scan::complaint(text) {
                    record.fail(format!("Host kernel ({word}): {text}"));
                }
                return None;
            }
            Said::Noise(text) => {
                record.noise.push(text.clone());
                return None;
            }
            Said::Closed => return None,
            Said::Event(event) => event,
        };
        match text {
            Event::Hello(hello) => {
                // A kexec that a command did cuts off what was being said: that is no fault.
                if hello.stage > 1
                    && record
                        .noise
                        .last()
                        .is_some_and(|noise| noise.starts_with('{'))
                {
                    record.noise.pop();
                }
                record.running = None;
                record.hellos.push((line.at, hello.clone()));
                let what = format!("the end of stage {}", hello.stage);
                return Some((self.stage_limit, what));
            }
            Event::Jump => {
                return Some((
                    BOOT_LIMIT,
                    "the first word of the next kernel's init".to_owned(),
                ));
            }
            Event::Start { command } => record.running = Some((record.hellos.len(), *command)),
            Event::Exit { command, status } => {
                record.running = None;
                record.exits.push((record.hellos.len(), *command, *status));
            }
            Event::Guest { text } => {
                if let Some(word) = scan::complaint(text) {
                    record.fail(format!("Guest kernel ({word}): {text}"));
                }
                record.guest.push((line.at, text.clone()));
            }
            Event::Scenario {
                name,
                stage,
                error,
                millis,
            } => record.scenarios.push(ScenarioStage {
                name: name.clone(),
                stage: *stage,
                error: error.clone(),
                millis: *millis,
            }),
            Event::Value { name, value } => record.values.push(Value {
                at: line.at,
                name: name.clone(),
                value: value.clone(),
            }),
            Event::Verdict { error } => {
                if record.verdict {
                    record.fail("A second verdict".to_owned());
                }
                record.verdict = true;
                if let Some(error) = error {
                    record.fail(error.clone());
                }
                return Some((OFF_LIMIT, "power-off".to_owned()));
            }
            Event::Output { text, .. } => record.output.push((record.running, text.clone())),
        }
        None
    }

    /// The stages must be the planned ones: a lost kexec, or one into the same kernel, is caught
    /// here however the command line was numbered.
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

/// A folder for one run's logs, the oldest ones removed.
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
    old.sort();
    for (_, path) in old.iter().rev().skip(KEEP) {
        std::fs::remove_dir_all(path)?;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let name = name.replace('/', "-");
    let dir = runs.join(format!("{}-{name}-{}", now.as_secs(), std::process::id()));
    std::fs::create_dir(&dir).context("Create a folder for the run")?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(stage: usize, release: &str, boot_id: &str) -> Line {
        let hello = Hello {
            stage,
            release: release.into(),
            version: String::new(),
            boot_id: boot_id.into(),
            uptime_ns: 0,
            tsc: 0,
        };
        Line {
            at: Duration::ZERO,
            said: Said::Event(Event::Hello(hello)),
        }
    }

    fn judge(lines: &[Line]) -> Vec<Failure> {
        let machine = Machine {
            memory_mib: 1,
            cpus: 1,
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            cmdline: String::new(),
            guests: 0,
            nics: 0,
        };
        let run = Run {
            machine: &machine,
            releases: &["a".to_owned(), "b".to_owned()],
            stage_limit: Duration::ZERO,
        };
        let mut record = Record::default();
        for line in lines {
            run.take(&mut record, line);
        }
        run.check_stages(&mut record);
        record.failures
    }

    #[test]
    fn two_planned_kernels_pass() {
        assert!(judge(&[hello(1, "a", "x"), hello(2, "b", "y")]).is_empty());
    }

    #[test]
    fn a_lost_kexec_is_caught() {
        assert!(!judge(&[hello(1, "a", "x")]).is_empty());
        assert!(!judge(&[hello(1, "a", "x"), hello(1, "b", "y")]).is_empty());
        assert!(!judge(&[hello(1, "a", "x"), hello(2, "a", "y")]).is_empty());
        assert!(!judge(&[hello(1, "a", "x"), hello(2, "b", "x")]).is_empty());
    }

    #[test]
    fn a_complaint_is_blamed_on_the_command_that_ran() {
        let at = Duration::ZERO;
        let event = |event| Line {
            at,
            said: Said::Event(event),
        };
        let warning = Line {
            at,
            said: Said::Console("WARNING: at foo.c:1".into()),
        };
        let failures = judge(&[
            hello(1, "a", "x"),
            event(Event::Start { command: 0 }),
            event(Event::Exit {
                command: 0,
                status: 0,
            }),
            event(Event::Start { command: 1 }),
            warning.clone(),
            event(Event::Exit {
                command: 1,
                status: 0,
            }),
            warning,
            hello(2, "b", "y"),
        ]);
        let blamed: Vec<_> = failures.iter().map(|failure| failure.during).collect();
        assert_eq!(blamed, [Some((1, 1)), None]);
    }

    #[test]
    fn a_kernel_that_complains_fails_the_run() {
        let at = Duration::ZERO;
        let mut lines = vec![hello(1, "a", "x"), hello(2, "b", "y")];
        lines.push(Line {
            at,
            said: Said::Console("WARNING: CPU: 0 PID: 1 at foo.c:1".into()),
        });
        assert_eq!(judge(&lines).len(), 1);
        let text = "rcu: INFO: rcu_sched self-detected stall on CPU".to_owned();
        lines.push(Line {
            at,
            said: Said::Event(Event::Guest { text }),
        });
        assert_eq!(judge(&lines).len(), 2);
    }
}
