//! Guests that wait in their boxes: starts a VMM for each, in parallel.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::arriving::{ArrivingError, RemoteArriving};
use super::boxes::Boxes;
use super::child::{Child, ChildError};
use super::lent::Silence;
use super::turns::{Turn, Turns};
use crate::error::Chain;
use crate::member::{Arrive, Lent, Module};
use crate::name::BoxName;
use crate::update::{ExitStatus, Step, UpdateError};

/// A guest that waits in its box.
pub struct ToResume {
    /// Its box.
    pub box_name: BoxName,
    /// Starts its VMM.
    pub start: Box<dyn FnOnce() -> Result<(Child, UnixStream), ChildError> + Send>,
    /// When userspace of this host started, in nanoseconds of `CLOCK_BOOTTIME`.
    pub userspace_boottime_ns: Option<u64>,
    /// Whether it is to arrive paused.
    pub paused: bool,
    /// The step at which its VMM is made to fail, for tests.
    pub fail_at: Option<Step>,
}

impl fmt::Debug for ToResume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("ToResume");
        fields
            .field("box_name", &self.box_name)
            .finish_non_exhaustive()
    }
}

/// How long a VMM may take. One that takes longer is killed, unless it has taken the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResumeLimits {
    /// How long the others wait for one that may come before them: to learn its place in the order,
    /// and for it to run when it is its turn. Default: 5 s each.
    pub order: Duration,
    /// For starting and reading the state. Default: 60 s.
    pub ready: Duration,
    /// For rebuilding the VM. Default: 60 s.
    pub restore: Duration,
    /// For running it. Default: 30 s.
    pub run: Duration,
    /// For the report. Default: 30 s.
    pub report: Duration,
    /// For a lifeboat that has the guest and is lost, to beat again: it may only be slow. Default: 10 s.
    pub slow_boat: Duration,
}

impl Default for ResumeLimits {
    fn default() -> Self {
        Self {
            order: Duration::from_secs(5),
            ready: Duration::from_secs(60),
            restore: Duration::from_secs(60),
            run: Duration::from_secs(30),
            report: Duration::from_secs(30),
            slow_boat: Duration::from_secs(10),
        }
    }
}

/// An event in the resume of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResumeEvent {
    /// Its VMM was started.
    Started {
        /// Its process ID.
        pid: u32,
    },
    /// Its VMM has read the state, and waits for its turn.
    Ready {
        /// Its process ID.
        pid: u32,
    },
    /// It runs.
    Running,
    /// Its resume has ended.
    Ended,
}

/// How the resume of one guest ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Resumption {
    /// Its box.
    pub box_name: BoxName,
    /// The process ID of its VMM, if that was started.
    pub pid: Option<u32>,
    /// [`Done`](ExitStatus::Done): it runs. [`NothingChanged`](ExitStatus::NothingChanged): it
    /// waits in its box, or the box had no guest. [`GuestLost`](ExitStatus::GuestLost).
    pub status: ExitStatus,
    /// The VMM, if its guest runs. [Let it go](Child::let_go): it is killed on drop.
    pub child: Option<Child>,
    /// The guest's place in the order, if its state was read and has one.
    pub position: Option<u32>,
    /// When it ran, counted from the start of all resumes.
    pub ran_after: Option<Duration>,
    /// The step that failed, if its VMM reported it. [`Preflight`](Step::Preflight): it could not
    /// get ready for any guest.
    pub step: Option<Step>,
    /// Why it does not run, or what else went wrong.
    pub message: Option<String>,
    /// Whether another try can succeed.
    pub can_retry: bool,
    /// Whether the box was deleted.
    pub box_deleted: bool,
    /// The report of its VMM.
    pub report: Option<Value>,
}

/// Resumes guests in parallel, in the order given by their states: those with the same place
/// together, those without one last. Returns when each guest either runs and has been reported, or
/// has failed. A guest that hangs does not block the others: the order is only enforced up to a
/// limit. `on_event` is called from several threads.
///
/// # Panics
/// If `on_event` does.
pub fn resume<B: Boxes>(
    boxes: &B,
    guests: Vec<ToResume>,
    limits: ResumeLimits,
    on_event: &(dyn Fn(&BoxName, ResumeEvent) + Sync),
) -> Vec<Resumption> {
    let began = Instant::now();
    let turns = Turns::new(guests.len(), limits.order);
    let module = boxes.module();
    let move_lock = Mutex::new(Silence::default());
    thread::scope(|scope| {
        let begin = |(at, guest): (usize, ToResume)| {
            let (turns, module, move_lock) = (&turns, &module, &move_lock);
            scope.spawn(move || {
                let name = guest.box_name.clone();
                let turn = Turn::new(turns, at);
                let module = match module {
                    Ok(module) => *module,
                    Err(error) => return Resumption::failed(name, error.to_string()),
                };
                let one = One {
                    boxes,
                    name,
                    limits,
                    on_event,
                    turn,
                    move_lock,
                    began,
                    keeps_box: guest.fail_at == Some(Step::Finish),
                };
                one.resume(guest, module)
            })
        };
        let threads: Vec<_> = guests.into_iter().enumerate().map(begin).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Resumption>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

impl Resumption {
    pub(super) fn failed(box_name: BoxName, message: String) -> Self {
        Self {
            box_name,
            pid: None,
            child: None,
            position: None,
            ran_after: None,
            step: None,
            status: ExitStatus::NothingChanged,
            message: Some(message),
            can_retry: true,
            box_deleted: false,
            report: None,
        }
    }
}

/// The resume of one guest, in a thread of its own.
pub(super) struct One<'a, B> {
    pub(super) boxes: &'a B,
    pub(super) name: BoxName,
    pub(super) limits: ResumeLimits,
    pub(super) on_event: &'a (dyn Fn(&BoxName, ResumeEvent) + Sync),
    pub(super) turn: Turn<'a>,
    /// Guests come from the lifeboat one by one.
    pub(super) move_lock: &'a Mutex<Silence>,
    began: Instant,
    /// Set by a test.
    keeps_box: bool,
}

impl<B: Boxes> One<'_, B> {
    fn resume(&self, guest: ToResume, module: Module) -> Resumption {
        let resumption = self.start(guest, module);
        (self.on_event)(&self.name, ResumeEvent::Ended);
        resumption
    }

    fn start(&self, guest: ToResume, module: Module) -> Resumption {
        let failed = |message| Resumption::failed(self.name.clone(), message);
        let passed = match self.boxes.descriptor(&self.name) {
            Ok(passed) => passed,
            Err(error) => return failed(error.to_string()),
        };
        let (child, socket) = match (guest.start)() {
            Ok(started) => started,
            Err(error) => return failed(Chain(&error).to_string()),
        };
        let pid = child.id();
        (self.on_event)(&self.name, ResumeEvent::Started { pid });
        let mut vmm = RemoteArriving::new(child, socket);
        let arrive = Arrive {
            box_name: self.name.clone(),
            from_vmm: false,
            standby: self.boxes.is_away(&self.name),
            module,
            userspace_boottime_ns: guest.userspace_boottime_ns,
            paused: guest.paused,
            fail_at: guest.fail_at,
        };
        if arrive.standby {
            let taken = self.take_home(vmm, arrive, passed);
            return Resumption {
                pid: Some(pid),
                ..taken
            };
        }
        let mut place = None;
        let restored = vmm
            .arrive(arrive, passed, self.limits.ready)
            .and_then(|position| {
                place = position;
                (self.on_event)(&self.name, ResumeEvent::Ready { pid });
                self.turn.wait(position);
                vmm.restore(&Lent::default(), self.limits.restore)
            });
        let resumption = match restored {
            Ok(()) => self.commit(vmm),
            Err(error) => self.give_up(vmm, &error),
        };
        Resumption {
            pid: Some(pid),
            position: place,
            ..resumption
        }
    }

    /// Gives up on a VMM that does not have the guest.
    pub(super) fn give_up(&self, mut vmm: RemoteArriving, error: &ArrivingError) -> Resumption {
        let ended = vmm.child().kill();
        let (message, can_retry) = match error {
            ArrivingError::Failed(failed) => (failed.message.clone(), failed.can_retry),
            ArrivingError::Gone { ended: Some(_), .. } => (error.to_string(), true),
            ArrivingError::Gone { ended: None, .. } | ArrivingError::Channel { .. } => {
                (format!("{error}; {ended}"), true)
            }
        };
        let mut resumption = Resumption {
            step: match error {
                ArrivingError::Failed(failed) => Some(failed.step),
                _ => None,
            },
            can_retry,
            ..Resumption::failed(self.name.clone(), message)
        };
        if can_retry && let Err(error) = self.boxes.seal_again(&self.name) {
            let message = resumption.message.get_or_insert_default();
            *message += &format!("; the box stays open: {error}");
        }
        resumption
    }

    /// Lets the VMM take the guest; from then on the state in the box decides who has it.
    fn commit(&self, mut vmm: RemoteArriving) -> Resumption {
        let taken = vmm.commit(self.limits.run);
        self.committed(vmm, taken)
    }

    pub(super) fn committed(
        &self,
        mut vmm: RemoteArriving,
        taken: Result<(), ArrivingError>,
    ) -> Resumption {
        let late = match taken {
            Ok(()) => return self.runs(vmm),
            Err(late) => late,
        };
        // Nobody else can take the guest: a VMM that has it but is late may take as long as it
        // needs.
        let has_it = matches!(self.boxes.has_guest(&self.name), Ok(false));
        let is_late = matches!(late, ArrivingError::Channel { .. });
        if has_it && is_late && vmm.wait_until_it_runs(self.limits.run).is_ok() {
            return self.runs(vmm);
        }
        vmm.child().kill();
        match self.boxes.has_guest(&self.name) {
            Ok(true) => self.give_up(vmm, &late),
            _ => Resumption {
                status: ExitStatus::GuestLost,
                can_retry: false,
                ..Resumption::failed(
                    self.name.clone(),
                    format!("Guest lost: its VMM had taken it: {late}"),
                )
            },
        }
    }

    fn runs(&self, mut vmm: RemoteArriving) -> Resumption {
        self.turn.end();
        let ran_after = self.began.elapsed();
        (self.on_event)(&self.name, ResumeEvent::Running);
        let report = vmm.report(self.limits.report);
        // The guest has everything.
        let deleted = match self.keeps_box {
            false => self
                .boxes
                .delete(&self.name)
                .map_err(|error| error.to_string()),
            true => Err(UpdateError::Injected(Step::Finish).to_string()),
        };
        let box_deleted = deleted.is_ok();
        let problems = [
            report
                .as_ref()
                .err()
                .map(|error| format!("no report: {error}")),
            deleted
                .err()
                .map(|error| format!("what is left of its box stays: {error}")),
        ];
        let problems: Vec<String> = problems.into_iter().flatten().collect();
        Resumption {
            child: Some(vmm.into_child()),
            ran_after: Some(ran_after),
            box_deleted,
            status: ExitStatus::Done,
            message: (!problems.is_empty()).then(|| problems.join("; ")),
            can_retry: false,
            report: report.ok(),
            ..Resumption::failed(self.name.clone(), String::new())
        }
    }
}
