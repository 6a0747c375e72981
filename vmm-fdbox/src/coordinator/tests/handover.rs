//! From one VMM to another in the same kernel: whatever hangs, exactly one of them runs the guest.

use std::sync::{Arc, Mutex};

use super::new_vmm::{NewVmm, new_vmm};
use super::world::{At, LONG, Running, SHORT, Script, Trouble, box_name, limits, old_vmm, remote};
use crate::coordinator::Handover;
use crate::fake::FakeStore;
use crate::member::Left;
use crate::update::{Destination, ExitStatus, Fleet, FleetOutcome, FleetPlan, SameHost};

struct Ended {
    outcome: FleetOutcome,
    old: Running,
    /// The guest runs in the new VMM.
    new: Arc<Mutex<bool>>,
    lent: Arc<Mutex<Vec<String>>>,
    store: FakeStore,
    new_gate: super::world::Gate,
}

impl Ended {
    fn status(&self) -> ExitStatus {
        self.outcome.exit_status()
    }

    /// Releases whichever VMM hangs, and returns whether the guest runs in the old VMM and in the
    /// new one.
    fn end(self) -> (bool, bool) {
        self.old.gate.open();
        self.new_gate.open();
        let running = self.old.running.clone();
        let left = self.old.thread.join().unwrap();
        let here = matches!(left, Left::Here) && *running.lock().unwrap();
        (here, *self.new.lock().unwrap())
    }
}

fn hand_over(old: Script, new: Script, limit: std::time::Duration) -> Ended {
    let store = FakeStore::new();
    let (running, socket) = old_vmm(&store, old);
    let leaving = remote(&store, socket, Destination::Successor, limits(false));
    let new_gate = new.gate.clone();
    let vmm = NewVmm::new(new);
    let (new, lent) = (vmm.running.clone(), vmm.lent.clone());
    let (mut vmm, boxes) = (Some(vmm), store.clone());
    let start = move || new_vmm(&boxes, vmm.take().unwrap());
    let handover = Handover::new(leaving, Box::new(start), limit);
    let outcome = Fleet::new(SameHost, vec![handover], FleetPlan::default()).run();
    Ended {
        outcome,
        old: running,
        new,
        lent,
        store,
        new_gate,
    }
}

#[test]
fn the_guest_and_all_that_is_lent_go_over() {
    let ended = hand_over(Script::default(), Script::default(), LONG);
    assert_eq!(ended.status(), ExitStatus::Done, "{:?}", ended.outcome);
    assert_eq!(
        *ended.lent.lock().unwrap(),
        ["Prepared", "Saved", "HandedOver"]
    );
    let report = ended.outcome.members[0].report.clone();
    assert_eq!(report, Some(serde_json::json!({ "deleted": true })));
    assert_eq!(ended.store.content(&box_name()), None);
    assert_eq!(ended.end(), (false, true));
}

#[test]
fn a_new_vmm_that_fails_leaves_the_guest_where_it_was() {
    for at in [At::GetReady, At::Prebuild, At::Restore] {
        let ended = hand_over(Script::default(), Script::with(at, Trouble::Fails), LONG);
        assert_eq!(ended.status(), ExitStatus::NothingChanged.max(at), "{at:?}");
        let text = format!("{:?}", ended.outcome);
        assert!(text.contains("made to fail"), "{text}");
        assert_eq!(ended.store.content(&box_name()), None, "{at:?}");
        assert_eq!(ended.end(), (true, false), "{at:?}");
    }
}

trait Max {
    fn max(self, at: At) -> ExitStatus;
}

impl Max for ExitStatus {
    /// Nothing has changed until the guest has given something away.
    fn max(self, at: At) -> ExitStatus {
        if at == At::GetReady {
            self
        } else {
            Self::RolledBack
        }
    }
}

#[test]
fn a_new_vmm_that_hangs_or_closes_its_end_and_lives_on_is_killed() {
    for trouble in [Trouble::Hangs, Trouble::ClosesAndHangs] {
        for at in [At::GetReady, At::Prebuild, At::Restore] {
            // A closed connection is noticed at once.
            let limit = if trouble == Trouble::Hangs {
                SHORT
            } else {
                LONG
            };
            let ended = hand_over(Script::default(), Script::with(at, trouble), limit);
            let text = format!("{:?}", ended.outcome);
            let why = match trouble {
                Trouble::Hangs => "gave no answer within 0.1 s",
                _ => "closed its connection but is alive",
            };
            assert!(text.contains(why), "{at:?}: {text}");
            assert!(text.contains("process "), "{text}");
            assert_ne!(ended.status(), ExitStatus::GuestLost, "{text}");
            assert_eq!(ended.end(), (true, false), "{at:?}, {trouble:?}");
        }
    }
}

#[test]
fn an_old_vmm_that_fails_keeps_its_guest() {
    for at in [At::TakeFds, At::Pause, At::Save, At::LendSaved] {
        let ended = hand_over(Script::with(at, Trouble::Fails), Script::default(), LONG);
        assert_eq!(ended.status(), ExitStatus::RolledBack, "{at:?}");
        assert_eq!(ended.end(), (true, false), "{at:?}");
    }
}

#[test]
fn a_guest_that_the_new_vmm_cannot_run_is_lost_and_both_are_gone() {
    let ended = hand_over(
        Script::default(),
        Script::with(At::Run, Trouble::Fails),
        LONG,
    );
    assert_eq!(ended.status(), ExitStatus::GuestLost, "{:?}", ended.outcome);
    let text = format!("{:?}", ended.outcome);
    assert!(text.contains("the new VMM had it"), "{text}");
    assert_eq!(ended.end(), (false, false));
}

#[test]
fn a_report_that_never_comes_costs_no_guest() {
    let ended = hand_over(
        Script::default(),
        Script::with(At::Report, Trouble::ClosesAndHangs),
        LONG,
    );
    assert_eq!(ended.status(), ExitStatus::Done, "{:?}", ended.outcome);
    assert_eq!(ended.outcome.members[0].report, None);
    assert_eq!(ended.end(), (false, true));
}
