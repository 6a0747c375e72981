//! A VMM that is killed, or closes its connection and lives on, in each step of an update: the
//! content of its box decides.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use rustix::process::Pid;

use super::mortal::Vmm;
use super::new_vmm::{NewVmm, new_vmm};
use super::world::{
    At, LONG, Running, SHORT, Script, Trouble, box_name, join, limits, old_vmm, old_vmm_that,
};
use crate::coordinator::{Boxes, Handover, Owner, RemoteLeaving};
use crate::fake::{FakeHost, FakeStore, HostCall};
use crate::finding::Finding;
use crate::update::{
    Destination, ExitStatus, Fleet, FleetOutcome, FleetPlan, Limits, NotReady, SameHost, Stopped,
};
use crate::{BoxName, Operation};

fn member(
    store: &FakeStore,
    name: &str,
    socket: UnixStream,
    to: Destination,
) -> RemoteLeaving<FakeStore> {
    let limits = Limits {
        // For the end of a VMM that was handed over, which the process of a thread never reaches.
        jump: SHORT,
        ..limits(false)
    };
    let join = join(store, BoxName::new(name).unwrap(), to, limits);
    RemoteLeaving::new(name, Ok(socket), store.clone(), join).with_limits(limits)
}

struct Ended {
    outcome: FleetOutcome,
    /// The guest runs in the new VMM.
    new: Arc<Mutex<bool>>,
    old: Vmm,
    store: FakeStore,
}

impl Ended {
    fn stopped(&self) -> &Stopped {
        self.outcome.members[0].stopped.as_ref().unwrap()
    }

    fn runs(&self) -> (bool, bool) {
        (self.old.old.runs(), *self.new.lock().unwrap())
    }
}

/// Hands over from a VMM that ends in this way to another binary's.
fn hand_over(ends: &str, new: Script) -> Ended {
    hand_over_to(ends, |_| new)
}

/// The same to a VMM whose script depends on the first one's process.
fn hand_over_to(ends: &str, new: impl FnOnce(Pid) -> Script) -> Ended {
    let store = FakeStore::new();
    let old = Vmm::new(old_vmm(&store, Script::default()), ends);
    hand_over_from(store, old, new)
}

fn hand_over_from(
    store: FakeStore,
    (old, socket): (Vmm, UnixStream),
    new: impl FnOnce(Pid) -> Script,
) -> Ended {
    let new = new(Pid::from_child(&old.process));
    let leaving = member(&store, "vm0", socket, Destination::Successor);
    let vmm = NewVmm::new(new);
    let new = vmm.running.clone();
    let (mut vmm, boxes) = (Some(vmm), store.clone());
    let start = move || new_vmm(&boxes, vmm.take().unwrap());
    let handover = Handover::new(leaving, Box::new(start), LONG);
    let outcome = Fleet::new(SameHost, vec![handover], FleetPlan::default()).run();
    Ended {
        outcome,
        new,
        old,
        store,
    }
}

#[test]
fn killed_in_the_blackout_it_leaves_the_guest_to_the_new_vmm() {
    let ended = hand_over("saved killed", Script::default());
    assert_eq!(
        ended.outcome.exit_status(),
        ExitStatus::Done,
        "{:?}",
        ended.outcome
    );
    assert_eq!(ended.runs(), (false, true));
    assert_eq!(ended.store.content(&box_name()), None);
}

#[test]
fn killed_while_the_new_vmm_gets_the_guest_it_leaves_it_to_that() {
    for at in [At::Restore, At::Run, At::Report] {
        let ended = hand_over_to("never killed", |old| Script {
            kills: Some((at, old)),
            ..Script::default()
        });
        let outcome = &ended.outcome;
        assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
        assert!(ended.runs().1, "{at:?}");
    }
}

#[test]
fn killed_with_a_new_vmm_that_fails_it_leaves_the_guest_in_its_box() {
    let new = Script::with(At::Restore, Trouble::Fails);
    let ended = hand_over("saved killed", new);
    assert_eq!(ended.runs(), (false, false));
    assert!(ended.store.has_guest(&box_name()).unwrap());
    let (stopped, status) = (ended.stopped(), ended.outcome.exit_status());
    assert_eq!(status, ExitStatus::WaitsInBox, "{stopped:?}");
    for expected in ["made to fail", "waits in box vm0", "process "] {
        assert!(stopped.message.contains(expected), "{stopped:?}");
    }
}

#[test]
fn one_that_has_not_written_the_state_takes_the_guest_along() {
    for ends in ["prepared killed", "pause swallows"] {
        let ended = hand_over(ends, Script::default());
        let status = ended.outcome.exit_status();
        assert_eq!(status, ExitStatus::GuestLost, "{ends}");
        let stopped = ended.stopped();
        assert!(stopped.message.starts_with("Guest lost: "), "{stopped:?}");
        assert!(!*ended.new.lock().unwrap());
    }
}

#[test]
fn one_that_wrote_the_state_and_did_not_get_to_say_so_leaves_the_guest_in_its_box() {
    let ended = hand_over("saved swallows", Script::default());
    assert_eq!(ended.runs(), (false, false));
    let (stopped, status) = (ended.stopped(), ended.outcome.exit_status());
    assert_eq!(status, ExitStatus::WaitsInBox, "{stopped:?}");
    for expected in ["waits in box vm0", "process "] {
        assert!(stopped.message.contains(expected), "{stopped:?}");
    }
}

#[test]
fn one_that_closes_its_connection_and_lives_keeps_the_guest() {
    let store = FakeStore::new();
    let (old, socket) = old_vmm(&store, Script::default());
    let resumed = old.resumed.clone();
    // The new VMM gets no further before the old one has rolled back by itself.
    let new = Script {
        gate: resumed.clone(),
        ..Script::with(At::Restore, Trouble::Hangs)
    };
    let old = Vmm::new((old, socket), "saved closes");
    let ended = hand_over_from(store, old, |_| new);
    resumed.wait();
    let outcome = &ended.outcome;
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome:?}");
    let text = format!("{outcome:?}");
    // At the jump or, if it was closed no sooner, when the new VMM failed.
    let expected = ["closed its connection but is alive", "it is alive"];
    assert!(expected.iter().any(|part| text.contains(part)), "{text}");
    assert_eq!(ended.runs(), (true, false));
}

/// Returns the fate of `vm0`, whose VMM ends in this way, and of `vm1`, whose VMM behaves.
fn update(
    ends: &str,
    plan: FleetPlan,
    host: &mut FakeHost,
    blocked: bool,
) -> (FleetOutcome, Running, (Vmm, FakeStore)) {
    update_through(FakeStore::new(), ends, plan, host, blocked)
}

fn update_through(
    store: FakeStore,
    ends: &str,
    plan: FleetPlan,
    host: &mut FakeHost,
    blocked: bool,
) -> (FleetOutcome, Running, (Vmm, FakeStore)) {
    let found = Finding::blocker("net0", "a tap cannot be kept", "detach it");
    let findings = Vec::from_iter(blocked.then_some(found));
    let old = old_vmm_that(&store, Script::default(), findings);
    // The other one is not done before the first one's connection is closed.
    let script = match ends.ends_with("closes") {
        true => Script {
            gate: old.0.resumed.clone(),
            ..Script::with(At::Save, Trouble::Waits)
        },
        false => Script::default(),
    };
    let (first, socket) = Vmm::new(old, ends);
    let (second, other) = old_vmm(&store, script);
    let to = Destination::ThisKernel;
    let members = vec![
        member(&store, "vm0", socket, to).of_process(first.process.id(), Owner::ROOT),
        member(&store, "vm1", other, to),
    ];
    let outcome = Fleet::new(host, members, plan).run();
    (outcome, second, (first, store))
}

fn leaving() -> FleetPlan {
    FleetPlan {
        not_ready: NotReady::Leave,
        ..FleetPlan::default()
    }
}

#[test]
fn killed_before_the_jump_it_goes_along_and_rolls_nobody_back() {
    let mut host = FakeHost::default();
    let (outcome, other, (_first, store)) =
        update("saved killed", FleetPlan::default(), &mut host, false);
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
    assert_eq!(host.calls, [HostCall::Load, HostCall::Jump]);
    assert!(!other.runs());
    for name in ["vm0", "vm1"] {
        assert!(store.has_guest(&BoxName::new(name).unwrap()).unwrap());
    }
}

#[test]
fn killed_before_a_jump_that_fails_it_leaves_the_guest_in_its_box() {
    let mut host = FakeHost::default();
    host.failing.push(HostCall::Jump);
    let (outcome, other, (_first, store)) =
        update("saved killed", FleetPlan::default(), &mut host, false);
    let became = |at: usize| outcome.members[at].stopped.as_ref().unwrap().status;
    assert_eq!(became(0), ExitStatus::WaitsInBox, "{outcome:?}");
    assert_eq!(became(1), ExitStatus::RolledBack, "{outcome:?}");
    assert_eq!(outcome.exit_status(), ExitStatus::WaitsInBox);
    assert!(other.runs());
    assert!(store.has_guest(&box_name()).unwrap());
}

#[test]
fn killed_before_its_state_is_written_it_is_as_one_that_is_not_ready() {
    for ends in ["joined killed", "prepared killed"] {
        let mut host = FakeHost::default();
        let (outcome, other, _) = update(ends, FleetPlan::default(), &mut host, false);
        assert_eq!(outcome.exit_status(), ExitStatus::GuestLost, "{outcome:?}");
        assert!(!host.calls.contains(&HostCall::Jump));
        assert!(other.runs(), "{ends}");

        let mut host = FakeHost::default();
        let (outcome, other, _) = update(ends, leaving(), &mut host, false);
        assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
        assert!(host.calls.contains(&HostCall::Jump));
        assert!(!other.runs(), "{ends}");
    }
}

#[test]
fn killed_before_it_said_that_its_state_is_written_it_is_looked_for_in_its_box() {
    let cases = [
        ("saved swallows", ExitStatus::WaitsInBox),
        ("pause swallows", ExitStatus::GuestLost),
    ];
    for (ends, became) in cases {
        let mut host = FakeHost::default();
        let (outcome, other, (_first, store)) =
            update(ends, FleetPlan::default(), &mut host, false);
        assert!(other.runs(), "{ends}");
        assert_eq!(outcome.exit_status(), became, "{ends}: {outcome:?}");
        // It can cross a kexec as before.
        assert!(store.content(&box_name()).unwrap().0, "{ends}");
    }
}

#[test]
fn a_box_that_cannot_be_looked_into_or_sealed_again_is_reported() {
    // After those of the two VMMs, and of the one that rolls back.
    let cases = [
        (
            Operation::Seal,
            2,
            "a kexec would lose it (Cannot seal box vm0",
        ),
        (Operation::Unseal, 1, "is not known (Cannot unseal box vm0"),
    ];
    for (operation, skip, expected) in cases {
        let store = FakeStore::new();
        store.fail(operation, skip, Errno::NOMEM);
        let (ends, plan) = ("saved swallows", FleetPlan::default());
        let host = &mut FakeHost::default();
        let (outcome, ..) = update_through(store, ends, plan, host, false);
        let stopped = outcome.members[0].stopped.as_ref().unwrap();
        assert_eq!(stopped.status, ExitStatus::WaitsInBox, "{stopped:?}");
        assert!(stopped.message.contains(expected), "{stopped:?}");
    }
}

#[test]
fn killed_after_it_was_set_down_it_holds_nobody_back() {
    let mut host = FakeHost::default();
    let (outcome, other, _) = update("down killed", leaving(), &mut host, true);
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
    assert_eq!(host.calls, [HostCall::Load, HostCall::Jump]);
    assert!(!other.runs());
}

#[test]
fn closing_its_connection_it_stops_the_jump() {
    let mut host = FakeHost::default();
    let (outcome, other, _) = update("saved closes", FleetPlan::default(), &mut host, false);
    let (_, why) = outcome.failure.as_ref().unwrap();
    assert!(why.contains("vm0: its VMM (process "), "{why}");
    assert!(!host.calls.contains(&HostCall::Jump));
    assert!(other.runs());
}
