//! Three guests in one update: every point of failure, under both policies.

use super::fleet_world::{Call, Guest, NAMES, State, World};
use crate::fake::{FakeHost, HostCall};
use crate::finding::Finding;
use crate::update::{
    CancelFlag, ExitStatus, Fleet, FleetEvent, FleetOutcome, FleetPlan, NotReady, Step, Stopped,
};

const STEPS: [(Call, Step); 4] = [
    (Call::Preflight, Step::Preflight),
    (Call::Prepare, Step::Seal),
    (Call::Quiesce, Step::Pause),
    (Call::Pause, Step::Pause),
];

#[test]
fn all_are_handed_over_by_one_jump() {
    let mut world = World::new(NotReady::Abort);
    let outcome = world.run();
    assert_eq!(outcome.exit_status(), ExitStatus::Done);
    assert_eq!(world.states(), [State::HandedOver; 3]);
    assert_eq!(world.host.calls, [HostCall::Load, HostCall::Jump]);
}

#[test]
fn whoever_is_not_ready_wherever_nobody_is_updated() {
    for (guest, name) in NAMES.into_iter().enumerate() {
        for (call, step) in STEPS {
            let mut world = World::failing(NotReady::Abort, guest, call);
            let outcome = world.run();
            world.assert_untouched();
            assert_eq!(world.count(HostCall::Jump), 0);
            let (failed, message) = outcome.failure.clone().unwrap();
            assert_eq!(failed, step);
            assert!(message.starts_with(name), "{message}");
            let status = match step {
                Step::Preflight => ExitStatus::NothingChanged,
                _ => ExitStatus::RolledBack,
            };
            assert_eq!(outcome.exit_status(), status);
            // A guest that failed undid everything itself; each of the others is asked to, once.
            for other in 0..3 {
                let calls = world.calls(other);
                let undone = calls.iter().filter(|call| **call == Call::RollBack).count();
                assert_eq!(undone, usize::from(other != guest), "{calls:?}");
                assert_eq!(outcome.members[other].not_ready, other == guest);
            }
        }
    }
}

#[test]
fn whoever_is_not_ready_is_left_behind_if_the_operator_says_so() {
    for guest in 0..3 {
        for (call, _) in STEPS {
            let mut world = World::failing(NotReady::Leave, guest, call);
            let outcome = world.run();
            assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
            // A guest that is not ready while the others are paused is not waited for.
            let left_as = match call {
                Call::Pause => State::Running,
                _ => State::Down,
            };
            for (at, state) in world.states().into_iter().enumerate() {
                let left = at == guest;
                let expected = if left { left_as } else { State::HandedOver };
                assert_eq!(state, expected);
                assert_eq!(outcome.members[at].not_ready, left);
            }
            assert!(!world.calls(guest).contains(&Call::RollBack));
            assert_eq!(world.count(HostCall::Jump), 1);
        }
    }
}

#[test]
fn who_was_left_behind_runs_on_when_nobody_leaves() {
    for call in [Call::Preflight, Call::Prepare] {
        let spoil: [fn(&mut World); 5] = [
            |world| world.host.failing = vec![HostCall::Jump],
            |world| world.plan.fail_at = Some(Step::Pause),
            |world| world.plan.fail_at = Some(Step::Jump),
            |world| world.members[2].cancel_asked = true,
            |world| {
                for member in &mut world.members[..2] {
                    member.fails_at = Some(Call::Pause);
                }
            },
        ];
        for spoil in spoil {
            let mut world = World::failing(NotReady::Leave, 2, call);
            spoil(&mut world);
            let outcome = world.run();
            assert!(outcome.failure.is_some());
            assert_eq!(world.states(), [State::Running; 3]);
            assert!(world.calls(2).ends_with(&[Call::SetDown, Call::RollBack]));
            let stopped = outcome.members[2].stopped.as_ref().unwrap();
            assert_eq!(stopped.message, "was made to fail; rolled back");
            assert_eq!(stopped.status, ExitStatus::RolledBack);
        }
    }
}

#[test]
fn who_cannot_be_set_down_stops_nobody_and_is_reported() {
    for failing in [false, true] {
        let mut world = World::failing(NotReady::Leave, 1, Call::Preflight);
        world.members[1].also_fails_at = failing.then_some(Call::SetDown);
        let mut ends = Vec::new();
        let members = std::mem::take(&mut world.members);
        let outcome = Fleet::new(&mut world.host, members, world.plan.clone())
            .observed_by(|event| {
                if let FleetEvent::SetDown(name, done) = event {
                    ends.push((name.to_string(), done.is_err()));
                }
            })
            .run();
        assert_eq!(outcome.exit_status(), ExitStatus::Done);
        assert_eq!(ends, [("b".to_owned(), failing)]);
    }
}

#[test]
fn in_a_kernel_that_stays_nobody_is_set_down() {
    let mut world = World::failing(NotReady::Leave, 0, Call::Prepare);
    world.host.hands_over = true;
    let outcome = world.run();
    assert_eq!(outcome.exit_status(), ExitStatus::Done);
    assert_eq!(world.states()[0], State::Running);
    assert!(!world.calls(0).contains(&Call::SetDown));
}

#[test]
fn the_last_guest_is_not_left_behind_alone() {
    for (call, step) in STEPS {
        let mut world = World::new(NotReady::Leave);
        for member in &mut world.members {
            member.fails_at = Some(call);
        }
        let outcome = world.run();
        assert_eq!(outcome.failure.as_ref().unwrap().0, step);
        world.assert_untouched();
        assert_eq!(world.count(HostCall::Jump), 0);
    }
}

#[test]
fn a_host_that_fails_rolls_everybody_back() {
    for not_ready in [NotReady::Abort, NotReady::Leave] {
        for (call, step, status) in [
            (HostCall::Load, Step::LoadKernel, ExitStatus::NothingChanged),
            (HostCall::Jump, Step::Jump, ExitStatus::RolledBack),
        ] {
            let mut world = World::new(not_ready);
            world.host.failing = vec![call];
            let outcome = world.run();
            assert_eq!(outcome.failure.as_ref().unwrap().0, step);
            assert_eq!(outcome.exit_status(), status);
            assert_eq!(world.states(), [State::Running; 3]);
            let unloads = usize::from(call == HostCall::Jump);
            assert_eq!(world.count(HostCall::Unload), unloads);
        }
    }
}

#[test]
fn the_fleet_itself_can_fail_before_every_step() {
    for step in [
        Step::Preflight,
        Step::LoadKernel,
        Step::Seal,
        Step::Pause,
        Step::Jump,
    ] {
        let mut world = World::new(NotReady::Leave);
        world.plan.fail_at = Some(step);
        let outcome = world.run();
        assert_eq!(outcome.failure.as_ref().unwrap().0, step);
        world.assert_untouched();
        assert_eq!(world.count(HostCall::Jump), 0);
    }
}

#[test]
fn a_blocker_of_the_host_stops_all_and_every_guest_is_asked_anyway() {
    let mut world = World::failing(NotReady::Leave, 1, Call::Preflight);
    world.host.findings = vec![Finding::blocker("kexec", "it is off", "switch it on")];
    let outcome = world.run();
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    assert!(outcome.failure.unwrap().1.contains("switch it on"));
    assert!((0..3).all(|guest| world.calls(guest).contains(&Call::Preflight)));
    assert_eq!(outcome.findings.len(), 1);
    assert!(world.host.calls.is_empty());
}

#[test]
fn a_dry_run_names_who_is_not_ready_and_changes_nothing() {
    let mut world = World::failing(NotReady::Abort, 1, Call::Preflight);
    let members = std::mem::take(&mut world.members);
    let outcome = Fleet::new(&mut world.host, members, world.plan.clone()).dry_run();
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    let not_ready: Vec<bool> = outcome.members.iter().map(|m| m.not_ready).collect();
    assert_eq!(not_ready, [false, true, false]);
    assert!(world.host.calls.is_empty());

    let mut world = World::new(NotReady::Abort);
    let members = std::mem::take(&mut world.members);
    let outcome = Fleet::new(&mut world.host, members, world.plan.clone()).dry_run();
    assert_eq!(outcome.exit_status(), ExitStatus::Done);
    assert!(outcome.members.iter().all(|m| m.stopped.is_none()));
}

#[test]
fn cancelling_is_honoured_after_every_step() {
    for after in [Step::Preflight, Step::LoadKernel, Step::Seal] {
        let mut world = World::new(NotReady::Leave);
        let cancel = CancelFlag::new();
        world.plan.cancel = cancel.clone();
        let members = std::mem::take(&mut world.members);
        let outcome = Fleet::new(&mut world.host, members, world.plan.clone())
            .observed_by(|event| {
                if *event == FleetEvent::Done(after) {
                    cancel.cancel();
                }
            })
            .run();
        assert!(outcome.cancelled, "{outcome:?}");
        world.assert_untouched();
    }
}

#[test]
fn a_cancel_at_one_guest_stops_all_even_if_others_may_be_left() {
    for (call, _) in STEPS {
        let mut world = World::failing(NotReady::Leave, 2, call);
        world.members[2].cancels = true;
        let outcome = world.run();
        assert!(outcome.cancelled, "{outcome:?}");
        world.assert_untouched();
    }
}

#[test]
fn a_cancel_while_all_stand_still_is_honoured_before_the_jump() {
    let mut world = World::new(NotReady::Leave);
    world.members[1].cancel_asked = true;
    let outcome = world.run();
    assert_eq!(outcome.failure.as_ref().unwrap().0, Step::Jump);
    assert!(outcome.cancelled);
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack);
    world.assert_untouched();
    assert_eq!(world.count(HostCall::Jump), 0);
}

#[test]
fn a_lost_guest_is_the_worst_that_is_reported() {
    let outcome = |statuses: [ExitStatus; 2]| {
        let member = |status| crate::update::MemberOutcome {
            report: None,
            name: "x".into(),
            stopped: Some(Stopped {
                status,
                ..Stopped::untouched("")
            }),
            not_ready: false,
            findings: Vec::new(),
        };
        FleetOutcome {
            failure: Some((Step::Seal, String::new())),
            cancelled: false,
            members: statuses.map(member).into(),
            findings: Vec::new(),
            problems: Vec::new(),
        }
    };
    let worst = outcome([ExitStatus::GuestLost, ExitStatus::RolledBack]);
    assert_eq!(worst.exit_status(), ExitStatus::GuestLost);
    let none = outcome([ExitStatus::NothingChanged; 2]);
    assert_eq!(none.exit_status(), ExitStatus::NothingChanged);
}

#[test]
fn no_guest_is_an_error() {
    let mut host = FakeHost::default();
    let outcome = Fleet::new(&mut host, Vec::<Guest>::new(), FleetPlan::default()).run();
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    assert!(host.calls.is_empty());
}
