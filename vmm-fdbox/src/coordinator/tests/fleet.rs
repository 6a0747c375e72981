//! Guests of VMMs behind sockets, in a fleet.

use rustix::io::Errno;

use super::world::{
    At, LONG, Running, SHORT, Script, Trouble, box_name, limits, old_vmm, old_vmm_that, remote,
};
use crate::coordinator::{Boxes, Owner, RemoteLeaving};
use crate::error::Operation;
use crate::fake::{FakeHost, FakeStore, HostCall};
use crate::finding::Finding;
use crate::member::Left;
use crate::update::{
    Destination, ExitStatus, Fleet, FleetOutcome, FleetPlan, Limits, Member, Step,
};

/// Updates one guest into the next kernel, and returns the outcome.
fn update(
    script: Script,
    host: &mut FakeHost,
    limits: Limits,
) -> (FleetOutcome, Running, FakeStore) {
    let store = FakeStore::new();
    let (vmm, socket) = old_vmm(&store, script);
    let member = remote(&store, socket, Destination::NextKernel, limits);
    let outcome = Fleet::new(host, vec![member], FleetPlan::default()).run();
    (outcome, vmm, store)
}

fn stays(vmm: Running) -> bool {
    vmm.gate.open();
    let running = vmm.running.clone();
    let left = vmm.thread.join().unwrap();
    matches!(left, Left::Here) && *running.lock().unwrap()
}

#[test]
fn a_guest_that_stands_still_when_the_host_jumps_is_in_its_box() {
    let store = FakeStore::new();
    let (vmm, socket) = old_vmm(&store, Script::default());
    let member = remote(&store, socket, Destination::NextKernel, limits(false));
    let mut host = FakeHost::default();
    // A successful jump would not return; the failure lets the test see what follows.
    host.failing.push(HostCall::Jump);
    let outcome = Fleet::new(&mut host, vec![member], FleetPlan::default()).run();
    assert_eq!(
        host.calls,
        [HostCall::Load, HostCall::Jump, HostCall::Unload]
    );
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome:?}");
    let stopped = outcome.members[0].stopped.as_ref().unwrap();
    assert_eq!(stopped.message, "Continues");
    assert!(stopped.paused_ns.is_some());
    assert_eq!(store.content(&box_name()), None, "the box is left");
    assert!(stays(vmm));
}

#[test]
fn a_member_that_fails_undoes_all_by_itself() {
    for (at, status) in [
        (At::Join, ExitStatus::NothingChanged),
        (At::TakeFds, ExitStatus::RolledBack),
        (At::Quiesce, ExitStatus::RolledBack),
        (At::Pause, ExitStatus::RolledBack),
        (At::Save, ExitStatus::RolledBack),
    ] {
        let script = Script::with(at, Trouble::Fails);
        let (outcome, vmm, store) = update(script, &mut FakeHost::default(), limits(false));
        assert_eq!(outcome.exit_status(), status, "{at:?}: {outcome:?}");
        let stopped = outcome.members[0].stopped.as_ref().unwrap();
        assert!(stopped.message.contains("made to fail"), "{stopped:?}");
        assert_eq!(store.content(&box_name()), None, "{at:?}: the box is left");
        assert!(stays(vmm), "{at:?}");
    }
}

#[test]
fn a_member_that_hangs_holds_nobody_up_and_rolls_back_when_it_goes_on() {
    for at in [At::Join, At::TakeFds, At::Quiesce, At::Pause, At::Save] {
        let script = Script::with(at, Trouble::Hangs);
        // Only hanging VMMs get short limits.
        let (short, long) = (limits(true), limits(false));
        let limits = match at {
            At::Join => Limits {
                preflight: short.preflight,
                ..long
            },
            At::TakeFds => Limits {
                prepare: short.prepare,
                ..long
            },
            _ => Limits {
                pause: short.pause,
                save: short.save,
                ..long
            },
        };
        let (outcome, vmm, _) = update(script, &mut FakeHost::default(), limits);
        let stopped = outcome.members[0].stopped.as_ref().unwrap();
        assert!(
            stopped.message.contains("gave no answer within"),
            "{at:?}: {stopped:?}"
        );
        if at != At::Join {
            // It reported its process, which is alive: nothing is lost.
            assert_eq!(
                stopped.status,
                ExitStatus::RolledBack,
                "{at:?}: {stopped:?}"
            );
            let pid = format!("process {}", std::process::id());
            assert!(stopped.message.contains(&pid), "{stopped:?}");
        }
        assert!(stays(vmm), "{at:?}");
    }
}

#[test]
fn a_coordinator_that_goes_away_leaves_every_guest_running() {
    type Act = fn(&mut RemoteLeaving<FakeStore>);
    let steps: [Act; 4] = [
        |_| {},
        |member| member.preflight().unwrap(),
        |member| member.prepare().unwrap(),
        |member| {
            member.quiesce().unwrap();
            member.pause().unwrap();
        },
    ];
    for steps in (0..=steps.len()).map(|count| &steps[..count]) {
        let store = FakeStore::new();
        let (vmm, socket) = old_vmm(&store, Script::default());
        let mut member = remote(&store, socket, Destination::NextKernel, limits(false));
        steps.iter().for_each(|step| step(&mut member));
        assert_eq!(vmm.runs(), steps.len() < 4);
        drop(member);
        assert!(stays(vmm), "{} steps", steps.len());
    }
}

#[test]
fn a_vmm_that_closes_its_end_and_lives_on_is_no_lost_guest() {
    let script = Script::with(At::Pause, Trouble::ClosesAndHangs);
    let (outcome, vmm, _) = update(script, &mut FakeHost::default(), limits(false));
    let stopped = outcome.members[0].stopped.as_ref().unwrap();
    assert_eq!(stopped.status, ExitStatus::RolledBack, "{stopped:?}");
    assert!(stopped.message.contains("it is alive"), "{stopped:?}");
    assert!(stays(vmm));
}

#[test]
fn a_cancel_at_the_vmm_is_heard_before_the_jump() {
    let store = FakeStore::new();
    let (vmm, socket) = old_vmm(&store, Script::default());
    let mut member = remote(&store, socket, Destination::NextKernel, limits(false));
    member.preflight().unwrap();
    member.prepare().unwrap();
    member.pause().unwrap();
    assert!(member.objection().is_none());
    vmm.cancel.cancel();
    while member.objection().is_none() {
        std::thread::yield_now();
    }
    // The jump may come at any moment: only the coordinator may continue the guest.
    assert!(!vmm.runs());
    assert_eq!(member.roll_back().status, ExitStatus::RolledBack);
    assert!(vmm.runs());
    drop(member);
    assert!(stays(vmm));
}

#[test]
fn blockers_are_told_and_a_dry_run_makes_no_box() {
    for blocked in [false, true] {
        let store = FakeStore::new();
        let finding = match blocked {
            true => Finding::blocker("net0", "a tap cannot be kept", "detach it"),
            false => Finding::warning("net0", "it is slow", "wait"),
        };
        let (vmm, socket) = old_vmm_that(&store, Script::default(), vec![finding.clone()]);
        let member = remote(&store, socket, Destination::NextKernel, limits(false));
        let outcome = Fleet::new(FakeHost::default(), vec![member], FleetPlan::default()).dry_run();
        assert_eq!(outcome.failure.is_some(), blocked, "{outcome:?}");
        if blocked {
            assert_eq!(outcome.members[0].findings, [finding]);
        }
        assert_eq!(store.content(&box_name()), None);
        assert!(stays(vmm));
    }
}

#[test]
fn what_its_files_are_is_asked_of_the_host() {
    let mut host = FakeHost {
        loses: [crate::Kind::Memfd].into(),
        ..FakeHost::default()
    };
    let (outcome, vmm, _) = update(Script::default(), &mut host, limits(false));
    assert!(
        matches!(&outcome.failure, Some((Step::Preflight, why)) if why.contains("lost")),
        "{outcome:?}"
    );
    assert!(stays(vmm));
}

#[test]
fn a_guest_is_set_down_and_stands_up_again() {
    let store = FakeStore::new();
    let blocker = Finding::blocker("net0", "a tap cannot be kept", "detach it");
    let (vmm, socket) = old_vmm_that(&store, Script::default(), vec![blocker]);
    let mut member = remote(&store, socket, Destination::NextKernel, limits(false));
    assert!(member.preflight().is_err());
    member.set_down().unwrap();
    member.set_down().unwrap();
    assert!(!vmm.runs() && member.objection().is_none());
    vmm.cancel.cancel();
    while member.objection().is_none() {
        std::thread::yield_now();
    }
    assert!(!vmm.runs());
    let stopped = member.roll_back();
    assert_eq!(stopped.status, ExitStatus::RolledBack, "{stopped:?}");
    assert!(vmm.runs());
    // Again, with a coordinator that goes away.
    member.set_down().unwrap();
    drop(member);
    assert!(stays(vmm));
}

#[test]
fn one_that_cannot_be_set_down_says_why() {
    let store = FakeStore::new();
    let script = Script {
        trouble: Some((At::SetDown, Trouble::Hangs)),
        ..Script::default()
    };
    let blocker = Finding::blocker("net0", "a tap cannot be kept", "detach it");
    let (vmm, socket) = old_vmm_that(&store, script, vec![blocker]);
    let mut limits = limits(false);
    limits.pause = SHORT;
    let mut member = remote(&store, socket, Destination::NextKernel, limits);
    assert!(member.preflight().is_err());
    let why = member.set_down().unwrap_err();
    assert!(why.contains("gave no answer within 0.1 s"), "{why}");
    assert!(stays(vmm));
    assert!(LONG > SHORT);
}

#[test]
fn a_box_that_an_update_left_empty_is_taken_and_another_is_not() {
    use crate::{BoxStore, OpenFdBox};
    let store = FakeStore::new();
    let open = store.create(&box_name()).unwrap();
    let (vmm, socket) = old_vmm(&store, Script::default());
    let mut member = remote(&store, socket, Destination::NextKernel, limits(false));
    member.preflight().unwrap();
    member.prepare().unwrap();
    drop(member);
    assert!(stays(vmm));
    open.put(&super::world::fd_name("x"), super::world::memfd("x"))
        .unwrap();
    let (vmm, socket) = old_vmm(&store, Script::default());
    let mut member = remote(&store, socket, Destination::NextKernel, limits(false));
    let stopped = member.preflight().unwrap_err();
    assert!(
        stopped.message.contains("there is one of this name"),
        "{stopped:?}"
    );
    drop(member);
    assert!(stays(vmm));
}

#[test]
fn a_box_is_its_vmms_users() {
    let owner = Owner { uid: 7, gid: 9 };
    for fails in [false, true] {
        let store = FakeStore::new();
        let (vmm, socket) = old_vmm(&store, Script::default());
        let member = remote(&store, socket, Destination::NextKernel, limits(false));
        let mut member = member.of_process(std::process::id(), owner);
        member.preflight().unwrap();
        if fails {
            // Nobody continues the guest with more rights than it had.
            store.fail(Operation::Give, 0, Errno::PERM);
            let stopped = member.prepare().unwrap_err();
            assert!(stopped.message.contains("CAP_CHOWN"), "{stopped:?}");
        } else {
            member.prepare().unwrap();
            assert_eq!(store.owner(&box_name()).unwrap(), owner);
        }
        drop(member);
        assert!(stays(vmm));
    }
}

#[test]
fn what_a_coordinator_finds_of_a_guest_stops_it_and_what_its_vmm_finds_is_reported_too() {
    let found = |of: &str| Finding::blocker(of, "it stays", "end it");
    for (theirs, count) in [(None, 1), (Some(found("disk")), 2)] {
        let store = FakeStore::new();
        let (vmm, socket) = old_vmm_that(&store, Script::default(), theirs.into_iter().collect());
        let member = remote(&store, socket, Destination::NextKernel, limits(false));
        let mut member = member.with_findings(vec![found("device")]);
        let stopped = member.preflight().unwrap_err();
        assert_eq!(stopped.status, ExitStatus::NothingChanged);
        assert_eq!(stopped.findings.len(), count, "{stopped:?}");
        drop(member);
        assert!(stays(vmm));
    }
}

#[test]
fn a_vmm_that_names_another_process_is_known_by_the_kernels_word() {
    let store = FakeStore::new();
    let (vmm, socket) = old_vmm(&store, Script::with(At::TakeFds, Trouble::ClosesAndHangs));
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    let member = remote(&store, socket, Destination::NextKernel, limits(false));
    // It claims to be this process, which is alive.
    let mut member = member.of_process(gone.id(), Owner::ROOT);
    gone.wait().unwrap();
    member.preflight().unwrap();
    let stopped = member.prepare().unwrap_err();
    assert_eq!(stopped.status, ExitStatus::GuestLost, "{stopped:?}");
    drop(member);
    vmm.gate.open();
    let _ = vmm.thread.join().unwrap();
}
