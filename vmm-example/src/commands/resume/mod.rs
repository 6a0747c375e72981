//! `resume`: continues the guests that an update handed over, each in a process of its own.
//!
//! This process opens the boxes, starts the VMMs and tells each when to go on. With `--all` it
//! exits when all of them run, and they live on; for a single guest it stays the parent, and exits
//! when its VMM does.

mod all;
mod foreground;
mod lifeboat;
mod total;
mod waiting;

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;
use serde_json::Value;
use vmm_fdbox::coordinator::{
    Boxes, Child, ChildError, Owner, ResumeEvent, ResumeLimits, Resumption, ToResume,
    resume as resume_guests,
};
use vmm_fdbox::update::{ExitStatus, Step};
use vmm_fdbox::{BoxError, BoxName, Control};

use crate::cli::{ResumeArgs, SandboxArgs};
use crate::commands::report_file::{report_path, write_report};
use crate::commands::{lost, open_files, signal};
use crate::error::{chain, warn};
use crate::sandbox::User;
use crate::service::report::ResumeReport;

pub(super) fn resume(args: &ResumeArgs) -> anyhow::Result<ExitStatus> {
    open_files::raise_limit();
    match &args.box_name {
        Some(name) => foreground::resume(args, name),
        None => all::resume(args),
    }
}

/// What a guest's VMM drops. It runs as the same user as before, to whom the last coordinator gave
/// the box, unless the operator names another one.
fn privileges(
    boxes: &impl Boxes,
    name: &BoxName,
    args: &ResumeArgs,
) -> Result<SandboxArgs, BoxError> {
    let owner = match boxes.owner(name) {
        // Its VMM will report this.
        Err(error) if error.errno() == Errno::NOENT => Owner::ROOT,
        owner => owner?,
    };
    let Owner { uid, gid } = owner;
    let own = (uid != Owner::ROOT.uid).then_some(User { uid, gid });
    Ok(SandboxArgs {
        user: args.privileges.user.or(own),
        ..args.privileges
    })
}

/// The options for read-only access.
fn looking(args: &ResumeArgs, status: Option<&Path>) -> Vec<OsString> {
    let status = status.map(|path| ["--status-socket".into(), path.into()]);
    let group = args.api_group.map(|group| format!("--api-group={group}"));
    let status = status.into_iter().flatten();
    status.chain(group.map(OsString::from)).collect()
}

/// Starts a guest's VMM.
type Start = Box<dyn FnOnce() -> Result<(Child, UnixStream), ChildError> + Send>;

fn start(command: Command) -> Start {
    Box::new(move || Child::spawn(command))
}

/// The result of the resume of one guest.
struct Resumed {
    resumption: Resumption,
    report: Option<Box<ResumeReport>>,
}

impl Resumed {
    /// If a VMM could not get ready for any guest, that says nothing about the box.
    fn exit_status(&self) -> ExitStatus {
        match self.resumption.step {
            Some(Step::Preflight) => ExitStatus::Error,
            _ => self.resumption.status,
        }
    }
}

/// Resumes guests, and writes each one's report. `began`: the start of the measured time.
fn drive(args: &ResumeArgs, control: &Control, guests: Vec<(BoxName, Start)>) -> Vec<Resumed> {
    let to_resume = |(box_name, start)| ToResume {
        box_name,
        start,
        userspace_boottime_ns: args.init_uptime.map(|seconds| (seconds * 1e9) as u64),
        paused: args.paused,
        fail_at: args.fail_at,
    };
    let guests = guests.into_iter().map(to_resume).collect();
    let mut limits = ResumeLimits::default();
    let limit = Duration::from_secs(args.all.timeout);
    (limits.ready, limits.restore) = (limit, limit);
    let hear = |name: &BoxName, event: ResumeEvent| {
        if let ResumeEvent::Ready { pid } = event
            && args.all.stop_guest.as_deref() == Some(&name.to_string())
        {
            signal::send(pid, Signal::STOP);
        }
    };
    let ended = resume_guests(control, guests, limits, &hear);
    let ended = ended.into_iter();
    let came = ended.map(|resumption| came(args, resumption)).collect();
    // Takes a while, and the guests run already.
    lifeboat::stop_boat(control);
    came
}

fn came(args: &ResumeArgs, mut resumption: Resumption) -> Resumed {
    let name = resumption.box_name.to_string();
    if let (ExitStatus::Done, Some(problem)) = (resumption.status, &resumption.message) {
        warn(&format!("{name}: the guest runs, but {problem}"));
    }
    if resumption.status == ExitStatus::GuestLost {
        let message = resumption.message.get_or_insert_default();
        *message += &format!("; {}", lost::remedy(&name, &name, &args.home));
    }
    let report = resumption
        .report
        .take()
        .map(|report| with_box(report, &resumption));
    if let (Some(path), Some(report)) = (&args.report, &report)
        && (args.box_name.is_some() || path.is_dir())
        && let Err(error) = write_report(&report_path(path, &name), &report.to_string())
    {
        warn(&format!(
            "The guest runs, but its report is lost: {}",
            chain(error.as_ref())
        ));
    }
    let report = report.and_then(|report| serde_json::from_value(report).ok());
    Resumed { resumption, report }
}

/// The VMM's report on the guest, with what happened to the box.
fn with_box(mut report: Value, resumption: &Resumption) -> Value {
    if let Some(deleted) = report.get_mut("box_deleted") {
        *deleted = resumption.box_deleted.into();
    }
    report
}
