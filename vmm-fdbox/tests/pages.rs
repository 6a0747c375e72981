//! The VMM of examples/pages in both roles, with in-memory boxes. The lab takes it through a real
//! kexec.

#[path = "../examples/pages/vmm.rs"]
mod vmm;

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use vmm::Vmm;
use vmm_fdbox::PassedStore;
use vmm_fdbox::coordinator::{Boxes, Child, RemoteLeaving, ResumeLimits, ToResume, resume};
use vmm_fdbox::fake::{FakeHost, FakeStore, HostCall};
use vmm_fdbox::member::{Arrived, Join, Left, serve_arriving_from, serve_leaving_into};
use vmm_fdbox::update::{Destination, ExitStatus, Fleet, FleetPlan, Limits, SameHost};
use vmm_fdbox::{BoxName, BoxStore};

fn name() -> BoxName {
    BoxName::new("pages").unwrap()
}

/// A VMM with a guest, in a thread, and its place in a fleet.
fn leaving(
    store: &FakeStore,
    to: Destination,
) -> (RemoteLeaving<FakeStore>, thread::JoinHandle<(Left, u64)>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let boxes = store.clone();
    let thread = thread::spawn(move || {
        let mut vmm = Vmm::boot().unwrap();
        while vmm.vm().unwrap().count() < 100 {
            thread::yield_now();
        }
        let left = serve_leaving_into(theirs, &mut vmm, |name, _| boxes.passed(name));
        (left, vmm.vm().unwrap().count())
    });
    let join = Join {
        box_name: name(),
        to,
        module: store.module().unwrap(),
        limits: Limits::default().into(),
        position: None,
        fail_at: None,
    };
    // This VMM's process, which is the test itself, does not end when it has left.
    let mut limits = Limits::default();
    limits.jump = Duration::from_millis(500);
    let member = RemoteLeaving::new("pages", Ok(ours), store.clone(), join).with_limits(limits);
    (member, thread)
}

#[test]
fn the_guest_counts_on_in_another_vmm() {
    let store = FakeStore::new();
    let (member, old) = leaving(&store, Destination::ThisKernel);
    let outcome = Fleet::new(SameHost, vec![member], FleetPlan::default()).run();
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
    let (left, count) = old.join().unwrap();
    assert!(matches!(left, Left::HandedOver), "{left:?}");

    let boxes = store.clone();
    let start = move || {
        let mut cat = Command::new("/bin/cat");
        cat.stdout(Stdio::null());
        let (child, input) = Child::spawn(cat)?;
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut vmm = Vmm::default();
            let passed = |name, _, fd| {
                let passed = boxes.passed(name);
                passed.receive(fd).map(|()| passed)
            };
            let arrived = serve_arriving_from(theirs, &mut vmm, passed);
            assert!(matches!(arrived, Arrived::Here(_)), "{arrived:?}");
            drop(input);
        });
        Ok((child, ours))
    };
    let guest = ToResume {
        box_name: name(),
        start: Box::new(start),
        userspace_boottime_ns: None,
        paused: false,
        fail_at: None,
    };
    let resumed = resume(&store, vec![guest], ResumeLimits::default(), &|_, _| {});
    assert_eq!(resumed[0].status, ExitStatus::Done, "{resumed:?}");
    let report = resumed[0].report.as_ref().unwrap();
    assert!(report["count"].as_u64().unwrap() >= count, "{report}");
    assert!(report["blackout_ns"].as_u64().is_some(), "{report}");
    assert_eq!(store.boxes().unwrap(), []);
}

#[test]
fn the_guest_counts_on_here_when_the_host_is_not_left() {
    let store = FakeStore::new();
    let (member, old) = leaving(&store, Destination::NextKernel);
    let host = FakeHost {
        failing: vec![HostCall::Jump],
        ..FakeHost::default()
    };
    let outcome = Fleet::new(host, vec![member], FleetPlan::default()).run();
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome:?}");
    let (left, _) = old.join().unwrap();
    assert!(matches!(left, Left::Here), "{left:?}");
    assert_eq!(store.boxes().unwrap(), []);
}
