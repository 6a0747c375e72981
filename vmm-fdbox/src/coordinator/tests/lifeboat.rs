//! Guests that go to the lifeboat and come back. A thread is the other kernel: it changes their leases.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::mortal::Vmm;
use super::new_vmm::{NewVmm, new_vmm};
use super::resume::put_guest;
use super::world::{LONG, Running, SHORT, Script, box_name, fd_name, limits, old_vmm, remote};
use crate::coordinator::{
    Boarding, BoardingLimits, Boxes, MoveLock, Owner, RemoteLeaving, ResumeLimits, Resumption,
    ToResume, resume,
};
use crate::fake::FakeStore;
use crate::lending::{Holder, LendAct, Lending};
use crate::member::Left;
use crate::statefd::SavedState;
use crate::update::{
    Destination, ExitStatus, Fleet, FleetOutcome, FleetPlan, Limits, Member, STATE_FD, SameHost,
    Step,
};
use crate::{BoxStore, Errno, Operation, SealedFdBox};

/// What the boat does with a box that is shown to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Boat {
    IsNotReady,
    DoesNotTake,
    Takes,
}

fn look(store: &FakeStore) -> Lending {
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
            if self == Self::Takes {
                take(&store, || {});
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
        take: limit(boat == Boat::Takes),
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

/// What the boat does when the host asks for a guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Keeps,
    GivesBack,
    /// And the host's box refuses to give the state out for good.
    GivesBackAndGetFails,
}

impl Asked {
    fn act(self, store: &FakeStore) {
        while !look(store).wanted {
            thread::yield_now();
        }
        if self == Self::GivesBackAndGetFails {
            store.fail(Operation::Get, 0, Errno::IO);
        }
        let offered = Lending {
            holder: Holder::Offered,
            ..look(store)
        };
        store.set_lending(&box_name(), offered);
    }
}

/// Whether the state of the guest can still be read by who took it out before.
fn is_whole(state: &OwnedFd) -> bool {
    SavedState::read(state).is_ok()
}

/// A guest that the boat has, and its state as the boat sees it.
fn in_boat() -> (FakeStore, OwnedFd) {
    let store = FakeStore::new();
    put_guest(&store, &box_name());
    let away = Lending {
        holder: Holder::Boat,
        ..look(&store)
    };
    store.set_lending(&box_name(), away);
    let sealed = store.open_box(&box_name()).unwrap().into_sealed().unwrap();
    let state = sealed.get_and_keep(&fd_name(STATE_FD)).unwrap();
    (store, state)
}

/// Resumes the guest, and whether it runs then. `asked`: there is a boat, which acts so.
fn resume_once(store: &FakeStore, asked: Option<Asked>) -> (Resumption, bool) {
    let vmm = NewVmm::new(Script::default());
    let running = Arc::clone(&vmm.running);
    let boxes = store.clone();
    let guest = ToResume {
        box_name: box_name(),
        start: Box::new(move || new_vmm(&boxes, vmm)),
        userspace_boottime_ns: None,
        paused: false,
        fail_at: None,
    };
    let acts = asked.filter(|asked| *asked != Asked::Keeps);
    let boat = acts.map(|asked| {
        let store = store.clone();
        thread::spawn(move || asked.act(&store))
    });
    let limits = ResumeLimits {
        restore: match asked {
            Some(Asked::Keeps) => SHORT,
            _ => LONG,
        },
        ..ResumeLimits::default()
    };
    let mut resumed = resume(store, vec![guest], limits, &|_, _| {});
    boat.into_iter().for_each(|boat| boat.join().unwrap());
    let runs = *running.lock().unwrap();
    (resumed.remove(0), runs)
}

#[test]
fn a_guest_in_the_boat_comes_home_when_it_is_given_back() {
    let (store, state) = in_boat();
    let (resumed, runs) = resume_once(&store, Some(Asked::GivesBack));
    let end = (resumed.status, resumed.message);
    assert_eq!((end, runs), ((ExitStatus::Done, None), true));
    // Whoever takes the guest overwrites its state, which the other kernel could read.
    assert!(!is_whole(&state));
}

#[test]
fn a_guest_that_the_boat_keeps_runs_there() {
    let (store, state) = in_boat();
    let (resumed, runs) = resume_once(&store, Some(Asked::Keeps));
    assert_eq!((resumed.status, runs), (ExitStatus::NothingChanged, false));
    let message = resumed.message.unwrap();
    assert!(message.contains("did not give the guest back"), "{message}");
    assert!(is_whole(&state));
}

/// The box is already unsealed then: nobody has the guest.
#[test]
fn a_guest_whose_state_cannot_be_taken_out_waits_for_the_next_try() {
    let (store, state) = in_boat();
    let (resumed, runs) = resume_once(&store, Some(Asked::GivesBackAndGetFails));
    let end = (resumed.status, resumed.can_retry, runs);
    assert_eq!(
        end,
        (ExitStatus::NothingChanged, true, false),
        "{resumed:?}"
    );
    let message = resumed.message.unwrap();
    assert!(message.contains("Cannot take 'vm-state'"), "{message}");
    let (is_sealed, content) = store.content(&box_name()).unwrap();
    assert!(is_sealed && content.contains(&fd_name(STATE_FD)));
    assert!(is_whole(&state), "the state was erased before it was taken");
    let (resumed, runs) = resume_once(&store, None);
    assert_eq!((resumed.status, runs), (ExitStatus::Done, true));
}
