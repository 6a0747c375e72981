//! Guests that go to the lifeboat. A thread is the other kernel: it changes their leases.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::homecoming::resume_once;
use super::mortal::Vmm;
use super::world::{LONG, Running, SHORT, Script, box_name, limits, old_vmm, remote};
use crate::coordinator::{Boarding, BoardingLimits, Boxes, MoveLock, Owner, RemoteLeaving};
use crate::fake::FakeStore;
use crate::lending::{Holder, LendAct, Lending};
use crate::member::Left;
use crate::update::{
    Destination, ExitStatus, Fleet, FleetOutcome, FleetPlan, Limits, Member, SameHost, Step,
};

/// What the boat does with a box that is shown to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Boat {
    IsNotReady,
    DoesNotTake,
    /// It is lost while the guest stands still.
    IsLost,
    Takes,
}

pub(super) fn look(store: &FakeStore) -> Lending {
    store.lend(&box_name(), LendAct::Look).unwrap()
}

fn wait(store: &FakeStore, holder: Holder) -> Lending {
    loop {
        match store.lend(&box_name(), LendAct::Look) {
            Ok(lending) if lending.holder == holder => return lending,
            _ => thread::yield_now(),
        }
    }
}

impl Boat {
    fn act(self, store: &FakeStore) -> JoinHandle<()> {
        let store = store.clone();
        thread::spawn(move || {
            if self == Self::IsNotReady {
                return;
            }
            be_ready(&store);
            match self {
                Self::Takes => take(&store, || {}),
                Self::IsLost => be_lost(&store, Holder::Offered),
                Self::IsNotReady | Self::DoesNotTake => {}
            }
        })
    }
}

fn be_ready(store: &FakeStore) {
    let ready = Lending {
        ready: true,
        ..wait(store, Holder::Shown)
    };
    store.set_lending(&box_name(), ready);
}

/// Is lost once this is the holder.
fn be_lost(store: &FakeStore, holder: Holder) {
    let lost = Lending {
        lost: true,
        ..wait(store, holder)
    };
    store.set_lending(&box_name(), lost);
}

/// Takes the box when it is offered. `before`: called while the guest stands still.
fn take(store: &FakeStore, before: impl FnOnce()) {
    let taken = Lending {
        holder: Holder::Boat,
        ..wait(store, Holder::Offered)
    };
    before();
    store.set_lending(&box_name(), taken);
}

fn board(boat: Boat) -> (FleetOutcome, Running, FakeStore) {
    board_and(boat, None)
}

/// A guest that goes to the boat.
fn leaving(store: &FakeStore, socket: UnixStream) -> RemoteLeaving<FakeStore> {
    let leaving = remote(store, socket, Destination::Lifeboat, limits(false));
    // The VMM is in this process, which does not end.
    leaving.with_limits(Limits {
        jump: SHORT,
        ..limits(false)
    })
}

/// `fail_at`: the coordinator's step that fails.
fn board_and(boat: Boat, fail_at: Option<Step>) -> (FleetOutcome, Running, FakeStore) {
    let store = FakeStore::new();
    let (old, socket) = old_vmm(&store, Script::default());
    let acts = boat.act(&store);
    let leaving = leaving(&store, socket);
    let limit = |boat_acts| if boat_acts { LONG } else { SHORT };
    let limits = BoardingLimits {
        ready: limit(boat != Boat::IsNotReady),
        take: limit(boat != Boat::DoesNotTake),
    };
    let reported = Arc::new(Mutex::new(0));
    let tell = Arc::clone(&reported);
    let on_aboard = Box::new(move |_: &str, _: Duration| *tell.lock().unwrap() += 1);
    let member = Boarding::new(leaving, limits, MoveLock::default()).telling(on_aboard);
    let plan = FleetPlan {
        fail_at,
        ..FleetPlan::default()
    };
    let outcome = Fleet::new(SameHost, vec![member], plan).run();
    acts.join().unwrap();
    assert_eq!(*reported.lock().unwrap(), usize::from(boat == Boat::Takes));
    (outcome, old, store)
}

#[test]
fn a_guest_that_the_boat_has_taken_leaves_its_vmm() {
    let (outcome, old, store) = board(Boat::Takes);
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
    assert!(!old.runs());
    assert!(matches!(old.thread.join().unwrap(), Left::HandedOver));
    // The boat has all of it.
    assert!(store.content(&box_name()).unwrap().0);
}

/// Each in boxes of its own: their names are the same.
#[test]
fn guests_move_one_by_one() {
    let limits = BoardingLimits {
        ready: LONG,
        take: LONG,
    };
    let move_lock = MoveLock::default();
    let mut vmms = Vec::new();
    let mut members = Vec::new();
    for _ in 0..2 {
        let store = FakeStore::new();
        let (old, socket) = old_vmm(&store, Script::default());
        let leaving = leaving(&store, socket);
        members.push(Boarding::new(leaving, limits, move_lock.clone()));
        vmms.push((store, old));
    }
    let taken = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (at, (store, _)) in vmms.iter().enumerate() {
            let (other, taken) = (&vmms[1 - at].1, &taken);
            scope.spawn(move || {
                be_ready(store);
                take(store, || {
                    // Time enough for the other one to stop as well.
                    (0..1000).for_each(|_| thread::yield_now());
                    let is_first = taken.fetch_add(1, Ordering::SeqCst) == 0;
                    assert_eq!(other.runs(), is_first, "both stand still");
                });
            });
        }
        let outcome = Fleet::new(SameHost, members, FleetPlan::default()).run();
        assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
    });
}

#[test]
fn a_guest_in_the_boat_stays_there_when_the_host_does_not_jump() {
    let (outcome, old, store) = board_and(Boat::Takes, Some(Step::Jump));
    let text = format!("{outcome:?}");
    assert_eq!(outcome.exit_status(), ExitStatus::WaitsInBox, "{text}");
    assert!(text.contains("The guest runs in the lifeboat"), "{text}");
    assert!(!old.runs());
    assert_eq!(look(&store).holder, Holder::Boat);
    assert!(matches!(old.thread.join().unwrap(), Left::HandedOver));
}

#[test]
fn a_guest_that_the_boat_does_not_take_runs_on() {
    for (boat, why) in [
        (Boat::IsNotReady, "no VMM in the lifeboat was ready"),
        (Boat::DoesNotTake, "did not take it"),
        (Boat::IsLost, "the lifeboat is lost"),
    ] {
        let (outcome, old, store) = board(boat);
        let text = format!("{outcome:?}");
        assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{text}");
        assert!(text.contains(why), "{text}");
        assert!(old.runs());
        assert_eq!(store.content(&box_name()), None);
        assert!(matches!(old.thread.join().unwrap(), Left::Here));
    }
}

#[test]
fn a_guest_is_not_stopped_for_a_boat_that_is_lost() {
    let store = FakeStore::new();
    let (old, socket) = old_vmm(&store, Script::default());
    let limits = BoardingLimits {
        ready: LONG,
        take: LONG,
    };
    let mut member = Boarding::new(leaving(&store, socket), limits, MoveLock::default());
    member.preflight().unwrap();
    let boat = Boat::DoesNotTake.act(&store);
    member.prepare().unwrap();
    boat.join().unwrap();
    be_lost(&store, Holder::Shown);
    let stopped = member.pause().unwrap_err();
    assert_eq!(stopped.status, ExitStatus::RolledBack, "{stopped:?}");
    assert!(stopped.message.contains("the lifeboat is lost"));
    assert_eq!(stopped.step, Some(Step::Pause), "it was stopped");
    drop(member);
    assert!(old.runs());
    assert!(matches!(old.thread.join().unwrap(), Left::Here));
}

#[test]
fn a_guest_in_the_boat_is_lost_with_it() {
    let store = FakeStore::new();
    let (_old, socket) = old_vmm(&store, Script::default());
    let limits = BoardingLimits {
        ready: LONG,
        take: LONG,
    };
    let mut member = Boarding::new(leaving(&store, socket), limits, MoveLock::default());
    member.preflight().unwrap();
    let boat = Boat::Takes.act(&store);
    member.prepare().unwrap();
    member.pause().unwrap();
    boat.join().unwrap();
    be_lost(&store, Holder::Boat);
    assert_eq!(member.roll_back().status, ExitStatus::GuestLost);
    store.end_claims();
    let (resumed, runs) = resume_once(&store, None);
    let end = (resumed.status, resumed.can_retry, runs);
    assert_eq!(end, (ExitStatus::GuestLost, false, false), "{resumed:?}");
}

#[test]
fn a_guest_that_the_boat_has_does_not_run_when_the_coordinator_dies() {
    let store = FakeStore::new();
    let (old, socket) = old_vmm(&store, Script::default());
    let mut leaving = remote(&store, socket, Destination::Lifeboat, limits(false));
    leaving.preflight().unwrap();
    leaving.prepare().unwrap();
    leaving.stop().unwrap();
    let taken = Lending {
        holder: Holder::Boat,
        ..look(&store)
    };
    store.set_lending(&box_name(), taken);
    drop(leaving);
    let running = Arc::clone(&old.running);
    assert!(matches!(old.thread.join().unwrap(), Left::HandedOver));
    assert!(!*running.lock().unwrap());
}

#[test]
fn a_guest_whose_vmm_died_once_the_state_was_written_waits_in_its_box() {
    let store = FakeStore::new();
    let old = old_vmm(&store, Script::default());
    let (vmm, socket) = Vmm::new(old, "saved swallows");
    let leaving = leaving(&store, socket).of_process(vmm.process.id(), Owner::ROOT);
    let limits = BoardingLimits {
        ready: LONG,
        take: LONG,
    };
    let member = Boarding::new(leaving, limits, MoveLock::default());
    let boat = {
        let store = store.clone();
        thread::spawn(move || be_ready(&store))
    };
    let outcome = Fleet::new(SameHost, vec![member], FleetPlan::default()).run();
    boat.join().unwrap();
    assert_eq!(outcome.exit_status(), ExitStatus::WaitsInBox, "{outcome:?}");
    assert!(store.content(&box_name()).unwrap().0);
    store.end_claims();
    let (resumed, runs) = resume_once(&store, None);
    assert_eq!((resumed.status, runs), (ExitStatus::Done, true));
}
