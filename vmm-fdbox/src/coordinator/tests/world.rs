//! VMMs in threads, which hang or break off where a test asks them to.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Pid;
use serde_json::json;

use crate::Clock;
use crate::coordinator::{Boxes, RemoteLeaving};
use crate::deadline::Deadline;
use crate::fake::FakeStore;
use crate::finding::Finding;
use crate::frame::{FrameWriter, Need};
use crate::member::{Join, Leaving, LeavingVmm, Left, Lent, serve_leaving_into};
use crate::name::{BoxName, FdName};
use crate::update::{CancelFlag, Destination, Guest, Limits, NamedFd, Outcome, PartyError, Plan};

/// Longer than anything takes that makes progress.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// The limit for a VMM that hangs.
pub(super) const SHORT: Duration = Duration::from_millis(100);

pub(super) fn box_name() -> BoxName {
    BoxName::new("vm0").unwrap()
}

pub(super) fn fd_name(name: &str) -> FdName {
    FdName::new(name).unwrap()
}

pub(super) fn memfd(name: &str) -> OwnedFd {
    rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

/// Where a VMM gets stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Join,
    TakeFds,
    Quiesce,
    Pause,
    Save,
    LendSaved,
    SetDown,
    GetReady,
    Prebuild,
    Restore,
    Run,
    Report,
}

/// How it gets stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Fails,
    /// It hangs until the test releases it.
    Hangs,
    /// It waits until the test opens its gate, and goes on.
    Waits,
    /// It closes its socket, and hangs.
    ClosesAndHangs,
}

/// A gate at which a VMM hangs until it is opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(CancelFlag);

impl Gate {
    pub(super) fn open(&self) {
        self.0.cancel();
    }

    pub(super) fn wait(&self) {
        let event = self.0.descriptor().unwrap();
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            event,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
    }
}

/// What a VMM does at which point.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    pub(super) trouble: Option<(At, Trouble)>,
    pub(super) gate: Gate,
    /// The process that is killed when the VMM reaches a point.
    pub(super) kills: Option<(At, Pid)>,
    /// Called first by its thread.
    pub(super) before: Option<fn()>,
    /// Its end of the socket, to be closed.
    pub(super) socket: Arc<Mutex<Option<UnixStream>>>,
}

impl Script {
    pub(super) fn with(at: At, trouble: Trouble) -> Self {
        Self {
            trouble: Some((at, trouble)),
            ..Self::default()
        }
    }

    pub(super) fn reach(&self, at: At) -> Result<(), PartyError> {
        if let Some((there, process)) = self.kills
            && there == at
        {
            rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
        }
        match self.trouble {
            Some((there, trouble)) if there == at => self.suffer(at, trouble),
            _ => Ok(()),
        }
    }

    fn suffer(&self, at: At, trouble: Trouble) -> Result<(), PartyError> {
        if trouble == Trouble::ClosesAndHangs
            && let Some(socket) = &*self.socket.lock().unwrap()
        {
            socket.shutdown(std::net::Shutdown::Both).unwrap();
        }
        if trouble != Trouble::Fails {
            self.gate.wait();
        }
        if trouble == Trouble::Waits {
            return Ok(());
        }
        Err(format!("it was made to fail at {at:?}").into())
    }
}

/// A VMM with a guest.
#[derive(Debug)]
pub(super) struct OldVmm {
    pub(super) running: Arc<Mutex<bool>>,
    pub(super) script: Script,
    pub(super) cancel: CancelFlag,
    pub(super) findings: Vec<Finding>,
    /// Opened when its guest continues after a rollback.
    pub(super) resumed: Gate,
}

impl OldVmm {
    fn run(&self, running: bool) {
        *self.running.lock().unwrap() = running;
    }
}

impl Guest for OldVmm {
    fn preflight(&mut self) -> Vec<Finding> {
        self.findings.clone()
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        self.script.reach(At::TakeFds)?;
        Ok(vec![NamedFd {
            name: fd_name("ram"),
            fd: memfd("ram"),
        }])
    }

    fn quiesce(&mut self, _: Deadline) -> Result<(), PartyError> {
        self.script.reach(At::Quiesce)
    }

    fn pause(&mut self, _: Deadline) -> Result<(), PartyError> {
        self.run(false);
        self.script.reach(At::Pause)
    }

    fn save(&mut self, frame: &mut FrameWriter<'_>, _: Deadline) -> Result<(), PartyError> {
        frame.add("cpu", 1, Need::Required, &1234u32)?;
        self.script.reach(At::Save)
    }

    fn resume_in_place(&mut self) -> Result<(), PartyError> {
        self.run(true);
        self.resumed.open();
        Ok(())
    }
}

impl LeavingVmm for OldVmm {
    fn join(&mut self, _: &Join) -> Result<Plan, PartyError> {
        self.script.reach(At::Join)?;
        let khz = std::num::NonZeroU32::new(1_000_000).unwrap();
        Ok(Plan {
            state_bytes: 8192,
            cancel: self.cancel.clone(),
            ..Plan::new(box_name(), Clock::tsc(khz), "test 1")
        })
    }

    fn lend(&mut self, at: Leaving) -> Result<Lent, PartyError> {
        if at == Leaving::Saved {
            self.script.reach(At::LendSaved)?;
        }
        let name = format!("{at:?}");
        Ok(Lent {
            value: json!({ "at": name }),
            fds: vec![(name, File::open("/dev/null")?.into())],
        })
    }

    fn set_down(&mut self) -> Result<(), PartyError> {
        self.script.reach(At::SetDown)?;
        self.run(false);
        Ok(())
    }

    fn down_cancel(&self) -> Option<CancelFlag> {
        Some(self.cancel.clone())
    }

    fn stand_up(&mut self) -> Result<(), PartyError> {
        self.run(true);
        Ok(())
    }

    fn ended(&mut self, outcome: &Outcome) {
        if let Outcome::GuestLost { .. } = outcome {
            self.run(false);
        }
    }
}

/// A VMM in a thread, and its observable state.
pub(super) struct Running {
    pub(super) running: Arc<Mutex<bool>>,
    pub(super) cancel: CancelFlag,
    pub(super) gate: Gate,
    pub(super) resumed: Gate,
    pub(super) thread: JoinHandle<Left>,
}

impl Running {
    pub(super) fn runs(&self) -> bool {
        *self.running.lock().unwrap()
    }
}

/// Starts a VMM with a guest and returns the coordinator's end of its socket.
pub(super) fn old_vmm(store: &FakeStore, script: Script) -> (Running, UnixStream) {
    old_vmm_that(store, script, Vec::new())
}

pub(super) fn old_vmm_that(
    store: &FakeStore,
    script: Script,
    findings: Vec<Finding>,
) -> (Running, UnixStream) {
    let store = store.clone();
    let boxes = move |name, _| store.passed(name);
    let serve = move |socket, vmm: &mut OldVmm| serve_leaving_into(socket, vmm, boxes);
    start_old_vmm(script, findings, serve)
}

/// The same with boxes that `serve` knows.
pub(super) fn start_old_vmm(
    script: Script,
    findings: Vec<Finding>,
    serve: impl FnOnce(UnixStream, &mut OldVmm) -> Left + Send + 'static,
) -> (Running, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    *script.socket.lock().unwrap() = Some(theirs.try_clone().unwrap());
    let running = Arc::new(Mutex::new(true));
    let cancel = CancelFlag::new();
    let gate = script.gate.clone();
    let resumed = Gate::default();
    let mut vmm = OldVmm {
        resumed: resumed.clone(),
        running: Arc::clone(&running),
        script,
        cancel: cancel.clone(),
        findings,
    };
    let thread = thread::spawn(move || {
        if let Some(before) = vmm.script.before {
            before();
        }
        let left = serve(theirs, &mut vmm);
        // A real VMM's whole process would be gone.
        vmm.script.socket.lock().unwrap().take();
        left
    });
    let running = Running {
        running,
        cancel,
        gate,
        resumed,
        thread,
    };
    (running, ours)
}

/// Limits, one of which is short.
pub(super) fn limits(short: bool) -> Limits {
    let limit = if short { SHORT } else { LONG };
    Limits {
        preflight: limit,
        prepare: limit,
        pause: limit,
        save: limit,
        jump: LONG,
        roll_back: LONG,
    }
}

pub(super) fn join(store: &impl Boxes, name: BoxName, to: Destination, limits: Limits) -> Join {
    Join {
        box_name: name,
        to,
        module: store.module().unwrap(),
        limits: limits.into(),
        position: None,
        fail_at: None,
    }
}

pub(super) fn remote(
    store: &FakeStore,
    socket: UnixStream,
    to: Destination,
    limits: Limits,
) -> RemoteLeaving<FakeStore> {
    let join = join(store, box_name(), to, limits);
    RemoteLeaving::new("vm0", Ok(socket), store.clone(), join).with_limits(limits)
}
