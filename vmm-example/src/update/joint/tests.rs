//! Taking part in an update, over a real connection.

use std::collections::VecDeque;

use vmm_fdbox::fake::FakeStore;
use vmm_fdbox::statefd::SavedState;
use vmm_fdbox::update::STATE_FD;
use vmm_fdbox::{FdName, SealedFdBox};

use super::super::tests::{FakeMachine, an_order, name};
use super::*;
use crate::guest::state;
use crate::service::told::UpdateResult;

/// A client that has said all that it will say; then it hangs up.
struct Script {
    says: VecDeque<Received>,
    heard: Vec<Reply>,
    cancel: CancelFlag,
    /// Cancel when this step is done.
    cancel_at: Option<&'static str>,
}

impl Script {
    fn new(says: impl IntoIterator<Item = Request>) -> Self {
        Self {
            says: says.into_iter().map(Received::Request).collect(),
            heard: Vec::new(),
            cancel: CancelFlag::new(),
            cancel_at: None,
        }
    }

    fn steps(&self) -> Vec<&str> {
        let step = |reply: &'_ Reply| match reply {
            Reply::StepDone { step } => Some(step.clone()),
            _ => None,
        };
        let names = ["preflight", "seal", "save"];
        let said: Vec<_> = self.heard.iter().filter_map(step).collect();
        names
            .into_iter()
            .filter(|name| said.iter().any(|step| step == name))
            .collect()
    }
}

impl Peer for Script {
    fn send(&mut self, reply: &Reply) -> bool {
        if matches!(reply, Reply::StepDone { step } if Some(step.as_str()) == self.cancel_at) {
            self.cancel.cancel();
        }
        self.heard.push(reply.clone());
        true
    }

    fn receive(&mut self, _: Option<Duration>) -> Received {
        if self.cancel.is_cancelled() && !self.heard.contains(&Reply::CancelAsked) {
            // The cancel is noticed before the client says anything.
            return Received::Nothing;
        }
        self.says.pop_front().unwrap_or(Received::Gone)
    }
}

fn join(script: &mut Script, store: &FakeStore, machine: &FakeMachine, here: bool) -> UpdateEnd {
    let mut order = an_order();
    order.plan.cancel = script.cancel.clone();
    order.position = Some(3);
    take_part(store, machine, order, here, script)
}

const ALL: [Request; 3] = [Request::Prepare, Request::PauseAndSave, Request::HandOver];

#[test]
fn a_guest_goes_on_step_by_step_and_keeps_its_place_in_the_order() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let mut script = Script::new(ALL);
    let end = join(&mut script, &store, &machine, true);
    assert_eq!(end.result, UpdateResult::HandedOver, "{end:?}");
    assert_eq!(script.steps(), ["preflight", "seal", "save"]);
    assert_eq!(*machine.calls.borrow(), ["park", "leave host", "save"]);

    let sealed = store.open_box(&name()).unwrap().into_sealed().unwrap();
    let open = sealed.unseal().unwrap();
    let state = vmm_fdbox::OpenFdBox::get(&open, &FdName::new(STATE_FD).unwrap()).unwrap();
    let saved = SavedState::read(&state).unwrap();
    assert_eq!(state::position(&saved.frame), Some(3));
}

#[test]
fn a_client_that_goes_at_any_step_leaves_the_guest_running() {
    for said in 0..=2 {
        for last in [None, Some(Request::RollBack)] {
            let (store, machine) = (FakeStore::new(), FakeMachine::default());
            let says = ALL.into_iter().take(said).chain(last);
            let mut script = Script::new(says);
            let end = join(&mut script, &store, &machine, false);
            let result = match said {
                0 => UpdateResult::NothingChanged,
                _ => UpdateResult::RolledBack,
            };
            assert_eq!(end.result, result, "{said}: {end:?}");
            assert_eq!(store.content(&name()), None, "a box is left");
            let stood = if said == 2 {
                &["park", "leave host", "save", "run on"][..]
            } else {
                &[]
            };
            assert_eq!(*machine.calls.borrow(), stood);
        }
    }
}

#[test]
fn a_kexec_is_never_handed_over_by_word() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let end = join(&mut Script::new(ALL), &store, &machine, false);
    assert_eq!(end.result, UpdateResult::RolledBack);
    assert_eq!(
        *machine.calls.borrow(),
        ["park", "leave host", "save", "run on"]
    );
}

#[test]
fn a_cancel_is_honoured_at_once_while_the_guest_runs() {
    for step in ["preflight", "seal"] {
        let (store, machine) = (FakeStore::new(), FakeMachine::default());
        let mut script = Script::new(ALL);
        script.cancel_at = Some(step);
        let end = join(&mut script, &store, &machine, false);
        assert!(end.cancelled, "{end:?}");
        assert!(machine.calls.borrow().is_empty());
        assert_eq!(store.content(&name()), None);
    }
}

#[test]
fn a_cancel_while_the_guest_stands_is_the_clients_to_honour() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let mut script = Script::new([Request::Prepare, Request::PauseAndSave, Request::RollBack]);
    script.cancel_at = Some("save");
    let end = join(&mut script, &store, &machine, false);
    let asked = script.heard.iter().filter(|r| **r == Reply::CancelAsked);
    assert_eq!(asked.count(), 1);
    assert_eq!(end.result, UpdateResult::RolledBack);
    assert_eq!(
        *machine.calls.borrow(),
        ["park", "leave host", "save", "run on"]
    );
}

fn set_down(script: &mut Script, machine: &FakeMachine) -> UpdateEnd {
    stand_by(machine, script.cancel.clone(), script)
}

#[test]
fn a_guest_that_is_set_down_is_safe_and_runs_on_when_nobody_leaves() {
    for says in [vec![Request::RollBack], vec![Request::SetDown], vec![]] {
        let machine = FakeMachine::default();
        let mut script = Script::new(says);
        let end = set_down(&mut script, &machine);
        assert_eq!(script.heard, [Reply::Ok]);
        assert_eq!(*machine.calls.borrow(), ["park", "leave host", "run on"]);
        assert_eq!(end.result, UpdateResult::RolledBack);
        assert!(end.paused_ns.is_some());
    }
}

#[test]
fn a_cancel_at_a_guest_that_is_set_down_is_passed_on() {
    let machine = FakeMachine::default();
    let mut script = Script::new([Request::RollBack]);
    script.cancel.cancel();
    set_down(&mut script, &machine);
    assert_eq!(script.heard, [Reply::Ok, Reply::CancelAsked]);
}

#[test]
fn a_guest_at_its_end_is_not_set_down() {
    let machine = FakeMachine::at_its_end();
    let mut script = Script::new([]);
    let end = set_down(&mut script, &machine);
    assert_eq!(script.heard, []);
    assert!(end.message.contains("come to its end"), "{end:?}");
}

#[test]
fn a_step_out_of_turn_is_refused_and_changes_nothing() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let mut script = Script::new([Request::PauseAndSave, Request::Status, Request::RollBack]);
    let end = join(&mut script, &store, &machine, false);
    let refused = |reply: &&Reply| matches!(reply, Reply::Error { .. });
    assert_eq!(script.heard.iter().filter(refused).count(), 2);
    assert_eq!(end.result, UpdateResult::NothingChanged);
    assert!(machine.calls.borrow().is_empty());
}
