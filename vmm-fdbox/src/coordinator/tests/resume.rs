//! Guests that wait in their boxes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::new_vmm::{NewVmm, new_vmm};
use super::world::{At, LONG, SHORT, Script, Trouble, fd_name, limits, memfd};
use crate::coordinator::{
    Boxes, RemoteArriving, ResumeEvent, ResumeLimits, Resumption, ToResume, resume,
};
use crate::fake::FakeStore;
use crate::frame::{FrameError, Need};
use crate::member::{Arrive, Lent};
use crate::name::BoxName;
use crate::statefd::StateFd;
use crate::update::{ExitStatus, STATE_FD};
use crate::{BoxStore, OpenFdBox};

/// Guests `vm0`, `vm1` and so on, each with its place in the order and what its VMM does.
struct World {
    store: FakeStore,
    order: Arc<Mutex<Vec<Option<u32>>>>,
    guests: Vec<ToResume>,
    running: Vec<Arc<Mutex<bool>>>,
    gates: Vec<super::world::Gate>,
    reserved: Arc<AtomicUsize>,
    /// Counts that all have reserved what they need of the host before the first is restored.
    together: Arc<AtomicUsize>,
}

fn name(at: usize) -> BoxName {
    BoxName::new(format!("vm{at}")).unwrap()
}

/// A guest in a sealed box.
pub(super) fn put_guest(store: &FakeStore, box_name: &BoxName) {
    let (mut state, fd) = StateFd::create(8192).unwrap();
    let written: Result<usize, FrameError> = state.write_frame("test 1", |frame| {
        frame.add("cpu", 1, Need::Required, &1234u32)
    });
    written.unwrap();
    let open = store.create(box_name).unwrap();
    open.put(&fd_name(STATE_FD), fd).unwrap();
    open.put(&fd_name("ram"), memfd("ram")).unwrap();
    open.seal().unwrap();
}

impl World {
    fn new(guests: Vec<(Option<u32>, Script)>) -> Self {
        let mut world = Self {
            store: FakeStore::new(),
            order: Arc::default(),
            guests: Vec::new(),
            running: Vec::new(),
            gates: Vec::new(),
            reserved: Arc::default(),
            // One that hangs or fails earlier is not waited for.
            together: Arc::new(AtomicUsize::new(
                match guests.iter().all(|(_, script)| script.trouble.is_none()) {
                    true => guests.len(),
                    false => 0,
                },
            )),
        };
        for (at, (position, script)) in guests.into_iter().enumerate() {
            world.add(name(at), position, script);
        }
        world
    }

    fn add(&mut self, box_name: BoxName, position: Option<u32>, script: Script) {
        put_guest(&self.store, &box_name);
        let mut vmm = NewVmm::new(script);
        vmm.position = position;
        vmm.order = Arc::clone(&self.order);
        vmm.reserved = Arc::clone(&self.reserved);
        vmm.together = Arc::clone(&self.together);
        self.running.push(Arc::clone(&vmm.running));
        self.gates.push(vmm.script.gate.clone());
        let store = self.store.clone();
        self.guests.push(ToResume {
            box_name,
            start: Box::new(move || new_vmm(&store, vmm)),
            userspace_boottime_ns: None,
            paused: false,
            fail_at: None,
        });
    }

    fn resume(&mut self, limits: ResumeLimits) -> Vec<Resumption> {
        let events = Mutex::new(Vec::new());
        let note = |name: &BoxName, event: ResumeEvent| {
            events.lock().unwrap().push((name.clone(), event));
        };
        let guests = std::mem::take(&mut self.guests);
        let count = guests.len();
        let resumed = resume(&self.store, guests, limits, &note);
        let events = events.into_inner().unwrap();
        let ended = events
            .iter()
            .filter(|(_, event)| *event == ResumeEvent::Ended);
        assert_eq!(ended.count(), count);
        resumed
    }

    fn runs(&self, at: usize) -> bool {
        *self.running[at].lock().unwrap()
    }
}

#[test]
fn all_run_in_their_order() {
    let places = [None, Some(2), Some(0), Some(1)];
    let mut world = World::new(places.map(|place| (place, Script::default())).into());
    let resumed = world.resume(ResumeLimits::default());
    for (at, resumption) in resumed.iter().enumerate() {
        assert_eq!(resumption.status, ExitStatus::Done, "{resumption:?}");
        assert_eq!(resumption.message, None);
        assert!(resumption.report.is_some() && world.runs(at));
        assert_eq!(world.store.content(&name(at)), None);
    }
    let order = world.order.lock().unwrap();
    assert_eq!(*order, [Some(0), Some(1), Some(2), None]);
}

/// Limits for a VMM that hangs; the others finish within them.
fn short() -> ResumeLimits {
    ResumeLimits {
        order: SHORT,
        ready: 30 * SHORT,
        restore: 30 * SHORT,
        run: 30 * SHORT,
        report: 30 * SHORT,
        slow_boat: SHORT,
    }
}

/// Limits for a VMM that breaks off, which is noticed at once.
fn long() -> ResumeLimits {
    ResumeLimits {
        order: SHORT,
        ..ResumeLimits::default()
    }
}

#[test]
fn one_that_hangs_keeps_nobody_and_its_guest_waits_in_its_box() {
    for trouble in [Trouble::Hangs, Trouble::ClosesAndHangs, Trouble::Fails] {
        for at in [At::GetReady, At::Restore] {
            let mut world = World::new(vec![
                (Some(1), Script::default()),
                (Some(0), Script::with(at, trouble)),
                (None, Script::default()),
            ]);
            let hangs = trouble == Trouble::Hangs;
            let resumed = world.resume(if hangs { short() } else { long() });
            let statuses: Vec<_> = resumed.iter().map(|resumption| resumption.status).collect();
            let waits = ExitStatus::NothingChanged;
            assert_eq!(statuses, [ExitStatus::Done, waits, ExitStatus::Done]);
            assert!(resumed[1].can_retry && resumed[1].message.is_some());
            assert!(world.runs(0) && !world.runs(1) && world.runs(2));
            // A VMM that was killed may have left it open.
            world.gates[1].open();
            let (sealed, names) = world.store.content(&name(1)).unwrap();
            assert!(sealed && names.len() == 2, "{at:?}, {trouble:?}");
        }
    }
}

#[test]
fn one_that_has_the_guest_and_cannot_run_it_has_lost_it() {
    let mut world = World::new(vec![(None, Script::with(At::Run, Trouble::Fails))]);
    let resumed = world.resume(short());
    assert_eq!(resumed[0].status, ExitStatus::GuestLost, "{resumed:?}");
    assert!(!resumed[0].can_retry);
}

#[test]
fn one_that_is_late_with_the_guest_is_given_time() {
    let script = Script::with(At::Run, Trouble::Hangs);
    let mut world = World::new(vec![(None, script)]);
    let resumed = world.resume(short());
    assert_eq!(resumed[0].status, ExitStatus::GuestLost, "{resumed:?}");
    let message = resumed[0].message.as_ref().unwrap();
    assert!(message.contains("gave no answer within 3 s"), "{message}");
}

#[test]
fn no_box_is_no_guest_and_no_reason_to_stop() {
    let mut world = World::new(vec![(None, Script::default()), (None, Script::default())]);
    let gone = world
        .store
        .open_box(&name(0))
        .unwrap()
        .into_sealed()
        .unwrap();
    crate::SealedFdBox::unseal(gone).unwrap();
    world.store.delete(&name(0)).unwrap();
    world.together.store(1, Ordering::SeqCst);
    let resumed = world.resume(ResumeLimits::default());
    assert_eq!(resumed[0].status, ExitStatus::NothingChanged);
    assert_eq!(resumed[1].status, ExitStatus::Done);
    assert!(world.store.has_guest(&name(1)).is_err());
    assert!(limits(true).pause == SHORT);
}

/// Waits until the box is sealed again, with the whole guest in it.
fn wait_until_sealed(store: &FakeStore, box_name: &BoxName) {
    while !store
        .content(box_name)
        .is_some_and(|(sealed, names)| sealed && names.len() == 2)
    {
        std::thread::yield_now();
    }
}

#[test]
fn a_coordinator_that_goes_away_before_it_says_commit_leaves_the_guest_in_its_box() {
    type Act = fn(&mut RemoteArriving, &FakeStore);
    let steps: [Act; 2] = [
        |vmm, store| {
            let arrive = Arrive {
                box_name: name(0),
                from_vmm: false,
                standby: false,
                module: store.module().unwrap(),
                userspace_boottime_ns: None,
                paused: false,
                fail_at: None,
            };
            let passed = store.descriptor(&name(0)).unwrap();
            vmm.arrive(arrive, passed, LONG).unwrap();
        },
        |vmm, _| vmm.restore(&Lent::default(), LONG).unwrap(),
    ];
    for count in 0..=steps.len() {
        let store = FakeStore::new();
        put_guest(&store, &name(0));
        let vmm = NewVmm::new(Script::default());
        let running = Arc::clone(&vmm.running);
        let (child, socket) = new_vmm(&store, vmm).unwrap();
        let mut vmm = RemoteArriving::new(child, socket);
        steps[..count]
            .iter()
            .for_each(|step| step(&mut vmm, &store));
        drop(vmm);
        wait_until_sealed(&store, &name(0));
        assert!(!*running.lock().unwrap(), "{count} steps");
    }
}
