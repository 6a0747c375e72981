//! A coordinator that is stopped while guests are paused: a separate process, which its own timer
//! kills.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::new_vmm::{NewVmm, new_vmm};
use super::world::{At, Script, Trouble, box_name, join, limits, old_vmm, old_vmm_that, remote};
use crate::coordinator::{Handover, RemoteLeaving};
use crate::deadline::Deadline;
use crate::fake::FakeStore;
use crate::finding::Finding;
use crate::member::Left;
use crate::update::{
    Destination, ExitStatus, Fleet, FleetEvent, FleetPlan, Host, LeftByOthers, Limits, NotReady,
    PartyError, SameHost,
};

/// Where the coordinator is to stop.
const STOPS: &str = "FDBOX_TEST_STOPS";

/// A host that takes very long to leave.
struct Stops {
    in_jump: bool,
}

/// Stops this process; not immediately, because another thread may get the signal first.
fn stop() -> ! {
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::STOP).unwrap();
    loop {
        std::thread::park();
    }
}

impl Host for Stops {
    fn jump(&mut self, _: Deadline) -> Result<(), PartyError> {
        if self.in_jump {
            stop();
        }
        Err("it did not stop".into())
    }
}

/// The coordinator, in a child of the tests below. Its sockets are standard input and standard
/// error.
#[test]
fn child() {
    let Ok(stops) = std::env::var(STOPS) else {
        return;
    };
    let store = FakeStore::new();
    let mut limits: Limits = limits(false);
    limits.pause = Duration::from_millis(100);
    limits.save = Duration::from_millis(100);
    limits.jump = Duration::from_millis(100);
    let member = |socket: OwnedFd, name: &str| {
        let join = join(
            &store,
            crate::BoxName::new(name).unwrap(),
            Destination::NextKernel,
            limits,
        );
        RemoteLeaving::new(name, Ok(UnixStream::from(socket)), store.clone(), join)
    };
    let socket = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
    let members = vec![
        member(socket(std::io::stdin().as_fd()), "vm0"),
        member(socket(std::io::stderr().as_fd()), "vm1"),
    ];
    let host = Stops {
        in_jump: stops == "jump",
    };
    let plan = FleetPlan {
        not_ready: NotReady::Leave,
        lease: true,
        limits,
        ..FleetPlan::default()
    };
    let on_event = |event: &FleetEvent<'_>| {
        if stops == "set-down" && matches!(event, FleetEvent::SetDown(_, Ok(()))) {
            stop();
        }
    };
    let _ = Fleet::new(host, members, plan).observed_by(on_event).run();
}

/// A coordinator whose lease is shorter than its limit for a new VMM, in a child of the test below.
#[test]
fn child_that_waits() {
    if std::env::var(STOPS).as_deref() != Ok("new-vmm") {
        return;
    }
    let store = FakeStore::new();
    let limit = Duration::from_millis(50);
    let limits = Limits {
        pause: limit,
        save: limit,
        jump: limit,
        ..limits(false)
    };
    let (_old, socket) = old_vmm(&store, Script::default());
    let leaving = remote(&store, socket, Destination::Successor, limits);
    let (boxes, mut vmm) = (
        store.clone(),
        Some(NewVmm::new(Script::with(At::Restore, Trouble::Hangs))),
    );
    let start = move || new_vmm(&boxes, vmm.take().unwrap());
    // Longer than the lease, which is derived from the limits above.
    let handover = Handover::new(leaving, Box::new(start), 10 * limits.standing());
    let plan = FleetPlan {
        lease: true,
        limits,
        ..FleetPlan::default()
    };
    let outcome = Fleet::new(SameHost, vec![handover], plan).run();
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome:?}");
}

#[test]
fn one_that_waits_for_a_late_vmm_lives_to_report_it() {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args([
        "--exact",
        "coordinator::tests::stopped::child_that_waits",
        "--nocapture",
    ]);
    let ended = test.env(STOPS, "new-vmm").output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

/// Runs a coordinator that stops there, and returns how it ended.
fn coordinate(stops: &str, first: UnixStream, second: UnixStream) -> Option<i32> {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args([
        "--exact",
        "coordinator::tests::stopped::child",
        "--nocapture",
    ])
    .env(STOPS, stops)
    .stdin(Stdio::from(OwnedFd::from(first)))
    .stdout(Stdio::null())
    .stderr(Stdio::from(OwnedFd::from(second)));
    test.status().unwrap().signal()
}

#[test]
fn after_a_pause_the_guests_continue() {
    let store = FakeStore::new();
    let (vmm, socket) = old_vmm(&store, Script::default());
    let blocker = Finding::blocker("net0", "a tap cannot be kept", "detach it");
    let (left_behind, other) = old_vmm_that(&store, Script::default(), vec![blocker]);
    crate::BoxStore::create(&store, &box_name()).unwrap();
    assert_eq!(coordinate("jump", socket, other), Some(9));
    for vmm in [vmm, left_behind] {
        let running = vmm.running.clone();
        assert!(matches!(vmm.thread.join().unwrap(), Left::Here));
        assert!(*running.lock().unwrap());
    }
}

#[test]
fn after_a_set_down_the_guests_continue() {
    let store = FakeStore::new();
    let (vmm, socket) = old_vmm(&store, Script::default());
    let blocker = Finding::blocker("net0", "a tap cannot be kept", "detach it");
    let (set_down, other) = old_vmm_that(&store, Script::default(), vec![blocker]);
    crate::BoxStore::create(&store, &box_name()).unwrap();
    assert_eq!(coordinate("set-down", socket, other), Some(9));
    for vmm in [vmm, set_down] {
        let running = vmm.running.clone();
        assert!(matches!(vmm.thread.join().unwrap(), Left::Here));
        assert!(*running.lock().unwrap());
    }
    assert!(!Host::is_left_by_others(&Stops { in_jump: false }));
    assert!(LeftByOthers(Destination::NextKernel).is_left_by_others());
}
