//! VMMs in threads, which hang or break off where a test says so.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::coordinator::{Boxes, Child, ChildError, RemoteLeaving};
use crate::deadline::Deadline;
use crate::fake::FakeStore;
use crate::finding::Finding;
use crate::frame::{FrameWriter, KnownSection, Need};
use crate::kind::Kind;
use crate::member::{
    Arrive, Arrived, ArrivingVmm, Join, Leaving, LeavingVmm, Left, Lent, serve_arriving_from,
    serve_leaving_into,
};
use crate::name::{BoxName, FdName};
use crate::update::{
    Arrival, Arriving, CancelFlag, Destination, Finished, Guest, Limits, NamedFd, Outcome,
    PartyError, Plan,
};
use crate::{BoxStore, Clock, PassedStore};

/// Longer than anything takes that goes on.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// What somebody who hangs is given.
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

/// Where a VMM does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Join,
    TakeFds,
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

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Fails,
    /// It hangs until the test lets go of it.
    Hangs,
    /// It closes its socket, and hangs.
    ClosesAndHangs,
}

/// A gate that a VMM hangs at, until it is opened.
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

/// What a VMM does where.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    pub(super) trouble: Option<(At, Trouble)>,
    pub(super) gate: Gate,
    /// What its thread does first.
    pub(super) before: Option<fn()>,
    /// Its end of the socket, to close.
    pub(super) socket: Arc<Mutex<Option<UnixStream>>>,
}

impl Script {
    pub(super) fn with(at: At, trouble: Trouble) -> Self {
        Self {
            trouble: Some((at, trouble)),
            ..Self::default()
        }
    }

    fn reach(&self, at: At) -> Result<(), PartyError> {
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

    fn kinds(&self) -> BTreeSet<Kind> {
        BTreeSet::from([Kind::Memfd])
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        self.script.reach(At::TakeFds)?;
        Ok(vec![NamedFd {
            name: fd_name("ram"),
            fd: memfd("ram"),
        }])
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

/// A VMM that is to get the guest.
#[derive(Debug)]
pub(super) struct NewVmm {
    pub(super) running: Arc<Mutex<bool>>,
    pub(super) script: Script,
    pub(super) position: Option<u32>,
    /// The order in which guests ran.
    pub(super) order: Arc<Mutex<Vec<Option<u32>>>>,
    pub(super) lent: Arc<Mutex<Vec<String>>>,
    pub(super) ram: Option<OwnedFd>,
}

const KNOWN: [KnownSection; 1] = [KnownSection::new("cpu", 1, 1)];

impl NewVmm {
    pub(super) fn new(script: Script) -> Self {
        Self {
            running: Arc::default(),
            script,
            position: None,
            order: Arc::default(),
            lent: Arc::default(),
            ram: None,
        }
    }

    fn note(&self, lent: &Lent) {
        let names = lent.fds.iter().map(|(name, _)| name.clone());
        self.lent.lock().unwrap().extend(names);
        if let Some((name, _)) = lent.fds.first() {
            assert_eq!(lent.value, json!({ "at": name }));
        }
    }
}

impl ArrivingVmm for NewVmm {
    fn known(&self) -> &[KnownSection] {
        &KNOWN
    }

    fn get_ready(&mut self, _: &Arrive) -> Result<(), PartyError> {
        self.script.reach(At::GetReady)
    }

    fn position(&self, _: &crate::frame::Frame<Vec<u8>>) -> Option<u32> {
        self.position
    }

    fn prebuild<S: BoxStore>(
        &mut self,
        arriving: &mut Arriving<S>,
        lent: Lent,
    ) -> Result<(), PartyError> {
        self.note(&lent);
        self.script.reach(At::Prebuild)?;
        self.ram = Some(arriving.take(&fd_name("ram"))?);
        Ok(())
    }

    fn restore<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
        lent: Lent,
    ) -> Result<(), PartyError> {
        self.note(&lent);
        self.script.reach(At::Restore)?;
        if self.ram.is_none() {
            self.ram = Some(arrival.take(&fd_name("ram"))?);
        }
        assert_eq!(arrival.frame().read::<u32>("cpu")?, 1234);
        Ok(())
    }

    fn abandon(&mut self) {
        self.ram = None;
    }

    fn run(&mut self) -> Result<u64, PartyError> {
        self.script.reach(At::Run)?;
        assert!(self.ram.is_some());
        *self.running.lock().unwrap() = true;
        self.order.lock().unwrap().push(self.position);
        Ok(1)
    }

    fn report(&mut self, finished: Finished) -> Value {
        // That it fails here is no harm to the guest.
        let _ = self.script.reach(At::Report);
        json!({ "deleted": finished.deleted.is_ok() })
    }

    fn adopt(&mut self, lent: Lent) {
        self.note(&lent);
    }
}

/// A VMM in a thread, and what is known of it.
pub(super) struct Running {
    pub(super) running: Arc<Mutex<bool>>,
    pub(super) cancel: CancelFlag,
    pub(super) gate: Gate,
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
    let (ours, theirs) = UnixStream::pair().unwrap();
    *script.socket.lock().unwrap() = Some(theirs.try_clone().unwrap());
    let running = Arc::new(Mutex::new(true));
    let cancel = CancelFlag::new();
    let gate = script.gate.clone();
    let mut vmm = OldVmm {
        running: Arc::clone(&running),
        script,
        cancel: cancel.clone(),
        findings,
    };
    let store = store.clone();
    let thread = thread::spawn(move || {
        if let Some(before) = vmm.script.before {
            before();
        }
        let left = serve_leaving_into(theirs, &mut vmm, |name, _| store.passed(name));
        // The whole process would be gone.
        vmm.script.socket.lock().unwrap().take();
        left
    });
    let running = Running {
        running,
        cancel,
        gate,
        thread,
    };
    (running, ours)
}

/// Limits of which one is short.
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

pub(super) fn join(store: &FakeStore, name: BoxName, to: Destination, limits: Limits) -> Join {
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

/// Starts a VMM for a guest. Its process is one that waits for the end of its input: what it does is done by a
/// thread.
pub(super) fn new_vmm(
    store: &FakeStore,
    mut vmm: NewVmm,
) -> Result<(Child, UnixStream), ChildError> {
    let mut cat = Command::new("/bin/cat");
    cat.stdout(Stdio::null()).stderr(Stdio::null());
    let (child, input) = Child::spawn(cat)?;
    let (ours, theirs) = UnixStream::pair().unwrap();
    *vmm.script.socket.lock().unwrap() = Some(theirs.try_clone().unwrap());
    let store = store.clone();
    thread::spawn(move || {
        if let Some(before) = vmm.script.before {
            before();
        }
        let arrived = serve_arriving_from(theirs, &mut vmm, |name, _, fd| {
            let passed = store.passed(name);
            passed.receive(fd).map(|()| passed)
        });
        if let Arrived::Here(adoption) = arrived {
            adoption.wait(|lent| vmm.adopt(lent));
        }
        vmm.script.socket.lock().unwrap().take();
        drop(input);
    });
    Ok((child, ours))
}
