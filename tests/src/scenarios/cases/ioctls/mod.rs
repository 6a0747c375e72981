//! Random ioctls by several processes at once, on a few boxes that they share.
//!
//! Each process makes a number of calls, correct ones and wrong ones, and checks the errno of each
//! against what docs/uapi.md allows, and the content of what it takes out. Some are killed in the
//! middle. In a kernel with fault injection, an allocation fails in some of the calls. In the end
//! every box can be opened and deleted.

mod calls;
mod errnos;
mod files;
mod worker;

use std::env;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use fdbox_lab::choices::Choices;
use fdbox_lab::ioctls::{CALLS, CALLS_PER_VALUE, COUNTS, Counts, SEED};
use fdbox_lab::scenario::HostKind;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use self::worker::Report;
pub(super) use self::worker::work;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::failing::{self, Quiet};
use crate::fdbox::{self, FdBox};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "ioctls/random",
    about: "random ioctls by several processes, some of which are killed: each errno is a \
            documented one, no content is wrong, and nothing is left",
    host: HostKind::OneBoot,
    stages: &[random],
}];

/// Without `cargo lab ioctls`.
const FEW: u64 = 4000;
/// Processes at a time.
const PROCESSES: usize = 5;
/// A process makes at most this many calls, and then another takes its place.
const MOST_CALLS: u64 = 2000;
/// One of this many reports is followed by the death of a process.
const REPORTS_PER_DEATH: u64 = 12;

/// The names of the boxes.
const BOXES: [&str; 4] = ["random-1", "random-2", "random-3", "random-4"];

fn random(cx: &Cx<'_>) -> Result<()> {
    let calls = number(CALLS)?.unwrap_or(FEW);
    let mut choices = Choices::from(number(SEED)?.unwrap_or(1));
    let quiet = match failing::is_possible() {
        true => {
            failing::set_up_failures()?;
            Some(Quiet::begin()?)
        }
        false => None,
    };
    let mut crowd = Crowd::gather(&mut choices)?;
    let mut sent = 0;
    while crowd.counts.calls < calls {
        crowd.step(&mut choices)?;
        if crowd.counts.calls >= sent + CALLS_PER_VALUE {
            sent = crowd.counts.calls;
            cx.value(COUNTS, crowd.counts)?;
        }
    }
    let counts = crowd.disperse()?;
    cx.value(COUNTS, counts)?;
    if let Some(quiet) = quiet {
        ensure!(counts.failing > 0, "No allocation failed");
        quiet.end()?;
    }
    ensure!(counts.killed > 0, "No process was killed");
    ensure!(counts.succeeded > calls / 10, "Hardly anything succeeded");
    nothing_is_left()
}

fn number(variable: &str) -> Result<Option<u64>> {
    let text = env::var(variable).ok();
    let number = text.map(|text| text.parse().with_context(|| format!("{variable}={text}")));
    number.transpose()
}

/// Whatever state the boxes are in, they can be opened and deleted.
fn nothing_is_left() -> Result<()> {
    for name in BOXES {
        if fdbox::listed(name)?.is_none() {
            continue;
        }
        let fdbox = FdBox::open(name)?;
        match fdbox.try_unseal() {
            Ok(()) | Err(Errno::INVAL) => fdbox.delete()?,
            Err(error) => return Err(error).with_context(|| format!("Unseal {name}")),
        }
    }
    equal("Boxes", fdbox::boxes()?.len(), 0)?;
    let info = fdbox::info()?;
    equal("Pages handed over", info.handover_pages, 0)?;
    equal("Bytes handed over", info.handover_bytes, 0)
}

/// The processes, and the pipe through which they report.
struct Crowd {
    processes: Vec<Process>,
    reports: File,
    writer: OwnedFd,
    counts: Counts,
}

struct Process {
    child: Child,
    /// Readable when it has ended.
    pidfd: OwnedFd,
}

impl Crowd {
    fn gather(choices: &mut Choices) -> Result<Self> {
        let (reports, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut crowd = Self {
            processes: Vec::new(),
            reports: reports.into(),
            writer,
            counts: Counts::default(),
        };
        for _ in 0..PROCESSES {
            crowd.add(choices)?;
        }
        Ok(crowd)
    }

    fn add(&mut self, choices: &mut Choices) -> Result<()> {
        let argument = format!("{}:{}", choices.number(), 1 + choices.below(MOST_CALLS));
        let child = Command::new("/proc/self/exe")
            .args(["help", "random-ioctls", &argument])
            .stdout(self.writer.try_clone()?)
            .spawn()
            .context("Start a process")?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        self.processes.push(Process { child, pidfd });
        self.counts.processes += 1;
        Ok(())
    }

    /// Waits for a report or the end of a process, and kills one now and then.
    fn step(&mut self, choices: &mut Choices) -> Result<()> {
        let (has_report, ended) = self.wait()?;
        if has_report {
            let mut bytes = [0; Report::BYTES];
            self.reports.read_exact(&mut bytes)?;
            let report = Report::from_bytes(bytes);
            ensure!(report.is_whole(), "Reports are mixed: {report:?}");
            self.counts += report.counts();
            if choices.one_in(REPORTS_PER_DEATH) {
                let victim = choices.below(self.processes.len() as u64) as usize;
                self.kill(victim)?;
                self.add(choices)?;
            }
        } else if let Some(index) = ended {
            let status = self.processes.swap_remove(index).child.wait()?;
            ensure!(status.success(), "A process ended with {status}");
            self.add(choices)?;
        }
        Ok(())
    }

    /// Whether there is a report, and which process has ended, if one has.
    fn wait(&self) -> Result<(bool, Option<usize>)> {
        let mut fds = vec![PollFd::new(&self.reports, PollFlags::IN)];
        let pidfds = self.processes.iter().map(|process| &process.pidfd);
        fds.extend(pidfds.map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        poll(&mut fds, None)?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let has_report = ready.next().unwrap_or(false);
        Ok((has_report, ready.position(|is_ready| is_ready)))
    }

    fn kill(&mut self, index: usize) -> Result<()> {
        let mut child = self.processes.swap_remove(index).child;
        child.kill()?;
        let status = child.wait()?;
        let is_killed = status.signal() == Some(libc::SIGKILL);
        ensure!(
            status.success() || is_killed,
            "A process ended with {status}"
        );
        self.counts.killed += u64::from(is_killed);
        Ok(())
    }

    /// Ends all of them.
    fn disperse(mut self) -> Result<Counts> {
        while !self.processes.is_empty() {
            self.kill(0)?;
        }
        Ok(self.counts)
    }
}
