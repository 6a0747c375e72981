//! Guests that come home from the lifeboat. A thread is the other kernel: it changes their leases.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use super::lifeboat::look;
use super::new_vmm::{NewVmm, new_vmm};
use super::resume::put_guest;
use super::world::{LONG, SHORT, Script, box_name, fd_name};
use crate::coordinator::{ResumeLimits, Resumption, ToResume, resume};
use crate::fake::FakeStore;
use crate::lending::{Holder, Lending};
use crate::statefd::SavedState;
use crate::update::{ExitStatus, STATE_FD};
use crate::{BoxStore, Errno, Operation, SealedFdBox};

/// What the boat does when the host asks for a guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Keeps,
    GivesBack,
    /// After it was lost for a while.
    BeatsAgain,
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
        if self == Self::BeatsAgain {
            let lost = Lending {
                lost: true,
                ..look(store)
            };
            store.set_lending(&box_name(), lost);
            // The host sees that it is lost.
            thread::sleep(SHORT);
        }
        let offered = Lending {
            lost: false,
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
pub(super) fn resume_once(store: &FakeStore, asked: Option<Asked>) -> (Resumption, bool) {
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
        slow_boat: match asked {
            Some(Asked::BeatsAgain) => LONG,
            _ => SHORT,
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
fn a_guest_in_a_boat_that_was_only_slow_comes_home() {
    let (store, _) = in_boat();
    let (resumed, runs) = resume_once(&store, Some(Asked::BeatsAgain));
    let end = (resumed.status, resumed.message);
    assert_eq!((end, runs), ((ExitStatus::Done, None), true));
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
