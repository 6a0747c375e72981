//! An update that a VMM keeps: driven by several threads, across separate API calls.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::world::{KNOWN, TestGuest, World, box_name, clock, fd_name, plan};
use crate::deadline::Deadline;
use crate::fake::{FakeHost, FakeStore};
use crate::finding::Finding;
use crate::frame::FrameWriter;
use crate::name::FdName;
use crate::update::{
    Arrival, Arriving, CancelFlag, Destination, Event, ExitStatus, Fleet, Guest, Host, KexecHost,
    LeftByOthers, Limits, Member, NamedFd, Outcome, PartyError, Paused, Plan, Prepared, Ready,
    ResumePlan, Resumed, Session, Step, UpdateError,
};
use crate::{Control, PassedBox};

type Shared = Arc<Mutex<TestGuest>>;

/// Compiles only if a VMM can keep it and move it between threads.
fn can_be_kept<T: Send + 'static>() {}

#[test]
fn every_state_can_be_kept() {
    can_be_kept::<Session<Control, KexecHost, Shared>>();
    can_be_kept::<Ready<Control, KexecHost, Shared>>();
    can_be_kept::<Prepared<Arc<PassedBox>, LeftByOthers, Shared>>();
    can_be_kept::<Paused<Arc<FakeStore>, Box<dyn Host + Send>, Box<dyn Guest + Send>>>();
    can_be_kept::<Prepared<Control, KexecHost, Shared, mpsc::Sender<(u64, Event)>>>();
    can_be_kept::<Arriving<Arc<PassedBox>>>();
    can_be_kept::<Arrival<Control>>();
    can_be_kept::<Resumed<Control>>();
    can_be_kept::<Box<Outcome>>();
    fn fleet<M: Member + 'static>() {
        can_be_kept::<Fleet<'static, KexecHost, M>>();
    }
    let _ = fleet::<super::fleet_world::Guest>;
}

/// What a VMM's API would hold: the update waits between two requests.
#[derive(Default)]
enum Kept {
    #[default]
    Nothing,
    Prepared(Prepared<FakeStore, LeftByOthers, Shared, mpsc::Sender<(u64, Event)>>),
    Paused(Paused<FakeStore, LeftByOthers, Shared, mpsc::Sender<(u64, Event)>>),
}

struct Vmm {
    guest: Shared,
    store: FakeStore,
    kept: Mutex<Kept>,
    cancel: CancelFlag,
    events: Mutex<mpsc::Receiver<(u64, Event)>>,
    sender: mpsc::Sender<(u64, Event)>,
}

impl Vmm {
    fn new() -> Arc<Self> {
        let (sender, events) = mpsc::channel();
        Arc::new(Self {
            guest: Arc::new(Mutex::new(TestGuest::new())),
            store: FakeStore::new(),
            kept: Mutex::default(),
            cancel: CancelFlag::new(),
            events: Mutex::new(events),
            sender,
        })
    }

    fn prepare(&self) {
        let plan = Plan {
            cancel: self.cancel.clone(),
            ..plan()
        };
        let host = LeftByOthers(Destination::NextKernel);
        let session = Session::new(self.store.clone(), host, Arc::clone(&self.guest), plan);
        let session = session.observed_by(self.sender.clone());
        let prepared = session.preflight().unwrap().prepare().unwrap();
        *self.kept.lock().unwrap() = Kept::Prepared(prepared);
    }

    fn pause(&self) -> Result<(), Box<Outcome>> {
        let mut kept = self.kept.lock().unwrap();
        if let Kept::Prepared(prepared) = std::mem::take(&mut *kept) {
            *kept = Kept::Paused(prepared.pause()?);
        }
        Ok(())
    }

    fn cancel(&self) -> Outcome {
        match std::mem::take(&mut *self.kept.lock().unwrap()) {
            Kept::Prepared(prepared) => prepared.cancel(),
            Kept::Paused(paused) => paused.cancel(),
            Kept::Nothing => panic!("there is no update"),
        }
    }

    /// Carries out one call in a thread of its own, as an API does.
    fn call<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let vmm = Arc::clone(self);
        thread::spawn(move || call(&vmm)).join().unwrap()
    }

    fn assert_untouched(&self) {
        let guest = self.guest.lock().unwrap();
        assert!(guest.running && guest.is_whole());
        assert_eq!(self.store.content(&box_name()), None);
    }
}

#[test]
fn an_update_waits_in_a_struct_between_the_calls_of_several_threads() {
    let vmm = Vmm::new();
    vmm.call(Vmm::prepare);
    assert!(vmm.guest.lock().unwrap().running);
    vmm.call(Vmm::pause).unwrap();
    assert!(!vmm.guest.lock().unwrap().running);
    let outcome = vmm.call(Vmm::cancel);
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome}");
    vmm.assert_untouched();
    let events: Vec<Event> = vmm
        .events
        .lock()
        .unwrap()
        .try_iter()
        .map(|(_, event)| event)
        .collect();
    assert!(events.contains(&Event::Done(Step::Seal)), "{events:?}");
    assert_eq!(events.last(), Some(&Event::RollingBack));
}

#[test]
fn somebody_else_may_leave_from_the_moment_the_guest_is_paused() {
    let vmm = Vmm::new();
    vmm.call(Vmm::prepare);
    vmm.call(Vmm::pause).unwrap();
    // The kernel is gone, and this VMM with it: nobody called `jump`.
    std::mem::forget(std::mem::take(&mut *vmm.kept.lock().unwrap()));
    vmm.store.end_claims();
    let resume = ResumePlan {
        clock: Some(clock()),
        ..ResumePlan::new(box_name(), &KNOWN)
    };
    let arrival = Arrival::open(vmm.store.clone(), resume).unwrap();
    assert!(arrival.since_pause().is_some());
    let frame = arrival.frame();
    let (_, mut resumed) = arrival
        .restore(|arrival| {
            // What was read stays valid while descriptors are taken.
            let taken = [
                arrival.take(&fd_name("vm"))?,
                arrival.take(&fd_name("ram"))?,
            ];
            assert_eq!(frame.read::<u32>("cpu")?, 1234);
            Ok(taken)
        })
        .unwrap();
    resumed.running();
    let report = resumed.finish().report.unwrap();
    let text = report.to_string();
    assert!(
        text.starts_with("Blackout ") && text.contains("jump"),
        "{text}"
    );
}

#[test]
fn a_guest_that_somebody_took_does_not_continue() {
    for is_finished in [false, true] {
        let vmm = Vmm::new();
        vmm.call(Vmm::prepare);
        vmm.call(Vmm::pause).unwrap();
        vmm.store.end_claims();
        let resume = ResumePlan::new(box_name(), &KNOWN);
        let resumed = Arrival::open(vmm.store.clone(), resume).unwrap().commit();
        if is_finished {
            resumed.unwrap().finish().deleted.unwrap();
        }
        let outcome = vmm.call(Vmm::cancel);
        assert_eq!(outcome.exit_status(), ExitStatus::GuestLost, "{outcome}");
        assert!(!vmm.guest.lock().unwrap().running);
    }
}

#[test]
fn another_thread_cancels() {
    let vmm = Vmm::new();
    vmm.call(Vmm::prepare);
    let cancel = vmm.cancel.clone();
    thread::spawn(move || cancel.cancel()).join().unwrap();
    let outcome = vmm.call(Vmm::pause).unwrap_err();
    let is_cancelled = matches!(outcome.error(), Some((Step::Pause, UpdateError::Cancelled)));
    assert!(is_cancelled, "{outcome}");
    vmm.assert_untouched();
}

#[test]
fn a_box_for_the_next_kernel_wants_kho_whoever_leaves() {
    let world = World::without_kho();
    for (destination, blocked) in [
        (Destination::NextKernel, true),
        (Destination::ThisKernel, false),
        (Destination::Successor, false),
    ] {
        let host = LeftByOthers(destination);
        let session = Session::new(&world.store, host, TestGuest::new(), plan());
        assert_eq!(session.preflight().is_err(), blocked, "{destination:?}");
    }
}

#[test]
fn an_outcome_is_a_result() {
    fn update(world: &mut World, fail_at: Option<Step>) -> Result<(), PartyError> {
        let plan = Plan { fail_at, ..plan() };
        let World { store, host, guest } = world;
        Ok(Session::new(&*store, host, guest, plan)
            .run()
            .into_result()?)
    }
    assert!(update(&mut World::new(), None).is_ok());
    let error = update(&mut World::new(), Some(Step::Pause)).unwrap_err();
    assert!(error.to_string().starts_with("Rolled back"), "{error}");
}

/// A guest that is late in one step: it returns when the limit has passed.
struct Late {
    guest: TestGuest,
    at: Step,
}

impl Late {
    fn wait(&self, step: Step, deadline: Deadline) {
        while step == self.at && !deadline.is_over() {
            thread::yield_now();
        }
    }
}

impl Guest for Late {
    fn preflight(&mut self) -> Vec<Finding> {
        self.guest.preflight()
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        self.wait(Step::PutFds, Deadline::within(LIMIT));
        self.guest.take_fds()
    }

    fn pause(&mut self, deadline: Deadline) -> Result<(), PartyError> {
        assert!(deadline.limit() == LIMIT || self.at != Step::Pause);
        self.guest.pause(deadline)?;
        self.wait(Step::Pause, deadline);
        Ok(())
    }

    fn save(&mut self, frame: &mut FrameWriter<'_>, deadline: Deadline) -> Result<(), PartyError> {
        self.guest.save(frame, deadline)?;
        self.wait(Step::Save, deadline);
        Ok(())
    }

    fn give_back(&mut self, name: &FdName, fd: OwnedFd) -> Result<(), PartyError> {
        self.guest.give_back(name, fd)
    }

    fn resume_in_place(&mut self) -> Result<(), PartyError> {
        self.guest.resume_in_place()
    }
}

const LIMIT: Duration = Duration::from_millis(20);

/// Limits of which only that of the step is short.
fn limits(step: Step) -> Limits {
    let mut limits = Limits::default();
    match step {
        Step::PutFds => limits.prepare = LIMIT,
        Step::Pause => limits.pause = LIMIT,
        _ => limits.save = LIMIT,
    }
    limits
}

#[test]
fn a_step_that_comes_back_late_is_undone() {
    for at in [Step::PutFds, Step::Pause, Step::Save] {
        let store = FakeStore::new();
        let mut late = Late {
            guest: TestGuest::new(),
            at,
        };
        let plan = Plan {
            limits: limits(at),
            ..plan()
        };
        let outcome = Session::new(&store, FakeHost::default(), &mut late, plan).run();
        let is_late = |(step, error): (Step, &UpdateError)| {
            step == at && matches!(error, UpdateError::Late { limit } if *limit == LIMIT)
        };
        assert!(outcome.error().is_some_and(is_late), "{at}: {outcome}");
        assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome}");
        assert!(late.guest.running && late.guest.is_whole(), "{at}");
        assert_eq!(store.content(&box_name()), None);
    }
}
