//! Whatever fails before the jump, the guest continues and nothing is left over.

use rustix::io::Errno;

use super::world::{Call, World, box_name, fd_name, plan};
use crate::error::Operation;
use crate::fake::HostCall;
use crate::finding::Finding;
use crate::store::BoxStore;
use crate::update::{CancelFlag, Event, ExitStatus, Outcome, Plan, Session, Step, UpdateError};

/// The steps of a host that leaves its kernel.
fn before_the_jump() -> impl Iterator<Item = Step> {
    let happens = |step: &Step| *step <= Step::Jump && *step != Step::Prebuild;
    Step::ALL.into_iter().filter(happens)
}

/// The status of an update that failed in `step`, if undoing it succeeded.
fn failed_in(step: Step) -> ExitStatus {
    if step < Step::PutFds {
        ExitStatus::NothingChanged
    } else {
        ExitStatus::RolledBack
    }
}

/// The status of an update that failed before it began `step`.
fn failed_before(step: Step) -> ExitStatus {
    if step <= Step::PutFds {
        ExitStatus::NothingChanged
    } else {
        ExitStatus::RolledBack
    }
}

#[test]
fn every_step_can_fail() {
    for step in before_the_jump() {
        let mut world = World::new();
        let outcome = world.update(Plan {
            fail_at: Some(step),
            ..plan()
        });
        assert!(matches!(outcome.error(), Some((at, UpdateError::Injected(_))) if at == step));
        assert_eq!(outcome.exit_status(), failed_before(step), "{step}");
        world.assert_untouched();
    }
}

#[test]
fn every_step_can_be_cancelled() {
    for step in before_the_jump() {
        let mut world = World::new();
        let cancel = CancelFlag::new();
        let mut observer = |_: u64, event: &Event| {
            // As soon as the step before it is done.
            let before = before_the_jump().take_while(|other| *other < step).last();
            if before.is_none_or(|before| *event == Event::Done(before)) {
                cancel.cancel();
            }
        };
        let plan = Plan {
            cancel: cancel.clone(),
            ..plan()
        };
        let outcome = Session::new(&world.store, &mut world.host, &mut world.guest, plan)
            .observed_by(&mut observer)
            .run();
        assert!(matches!(outcome.error(), Some((at, UpdateError::Cancelled)) if at == step));
        assert_eq!(outcome.exit_status(), failed_before(step), "{step}");
        world.assert_untouched();
    }
}

#[test]
fn every_box_operation_can_fail() {
    use Operation::{Create, Info, List, Put, Seal};
    // The state memfd is put in first, then the guest's two.
    let cases = [
        (Info, 0),
        (List, 0),
        (Create, 0),
        (Put, 0),
        (Put, 1),
        (Put, 2),
        (Seal, 0),
    ];
    for (operation, skip) in cases {
        let mut world = World::new();
        world.store.fail(operation, skip, Errno::NOMEM);
        let outcome = world.update(plan());
        let Some((step, UpdateError::Box(_) | UpdateError::Seal(_))) = outcome.error() else {
            panic!("{operation:?} {skip}: {outcome}");
        };
        assert_eq!(
            outcome.exit_status(),
            failed_in(step),
            "{operation:?} {skip}"
        );
        world.assert_untouched();
    }
}

#[test]
fn guest_and_host_can_fail() {
    for (call, step) in [
        (Call::TakeFds, Step::PutFds),
        (Call::Quiesce, Step::Pause),
        (Call::Pause, Step::Pause),
        (Call::Save, Step::Save),
    ] {
        let mut world = World::new();
        world.guest.failing = vec![call];
        let outcome = world.update(plan());
        assert!(matches!(outcome.error(), Some((at, UpdateError::Guest { .. })) if at == step));
        assert_eq!(outcome.exit_status(), ExitStatus::RolledBack);
        world.assert_untouched();
    }
    for (call, step) in [
        (HostCall::Load, Step::LoadKernel),
        (HostCall::Jump, Step::Jump),
    ] {
        let mut world = World::new();
        world.host.failing = vec![call];
        let outcome = world.update(plan());
        assert!(matches!(outcome.error(), Some((at, UpdateError::Host { .. })) if at == step));
        assert_eq!(outcome.exit_status(), failed_in(step));
        world.assert_untouched();
    }
}

#[test]
fn a_guest_whose_devices_do_not_come_to_rest_never_stands_still() {
    let mut world = World::new();
    world.guest.failing = vec![Call::Quiesce];
    let outcome = world.update(plan());
    assert!(matches!(
        outcome,
        Outcome::RolledBack {
            step: Step::Pause,
            paused_ns: None,
            ..
        }
    ));
    assert!(world.guest.running);
    world.assert_untouched();
}

#[test]
fn a_missing_dependency_is_named() {
    let mut world = World::new();
    world.store.depends(&fd_name("ram"), &fd_name("iommufd"));
    let outcome = world.update(plan());
    assert!(
        outcome.to_string().contains("'ram': it needs 'iommufd'"),
        "{outcome}"
    );
    assert!(matches!(
        outcome,
        Outcome::RolledBack {
            step: Step::Seal,
            paused_ns: None,
            ..
        }
    ));
    world.assert_untouched();
}

#[test]
fn a_pause_that_was_rolled_back_is_measured() {
    let mut world = World::new();
    let outcome = world.update(Plan {
        fail_at: Some(Step::Jump),
        ..plan()
    });
    let Outcome::RolledBack {
        paused_ns: Some(ns),
        problems,
        ..
    } = outcome
    else {
        panic!("{outcome}");
    };
    assert!(ns > 0);
    assert_eq!(problems, [""; 0]);
}

#[test]
fn blockers_are_all_told_and_nothing_changes() {
    let mut world = World::without_kho();
    world.store.create(&box_name()).unwrap();
    world.guest.findings = vec![
        Finding::blocker("net0", "it is a tap", "detach it"),
        Finding::warning("serial", "slow", "live with it"),
    ];
    world.host.findings = vec![Finding::blocker("kexec", "off", "turn it on")];
    let mut events = Vec::new();
    let mut observer = |_: u64, event: &Event| events.push(event.clone());
    let outcome = Session::new(&world.store, &mut world.host, &mut world.guest, plan())
        .observed_by(&mut observer)
        .run();
    let Outcome::NothingChanged {
        step: Step::Preflight,
        error: UpdateError::Blocked(blockers),
    } = outcome
    else {
        panic!("{outcome}");
    };
    let subjects: Vec<_> = blockers
        .iter()
        .map(|blocker| blocker.subject.as_str())
        .collect();
    assert_eq!(subjects, ["KHO", "Box vm0", "kexec", "net0"]);
    assert!(matches!(&events[1], Event::Warning(finding) if finding.subject == "serial"));
    assert!(world.guest.is_whole() && world.host.calls.is_empty());
}

#[test]
fn names_of_descriptors_must_differ() {
    for clash in ["vm", "vm-state"] {
        let mut world = World::new();
        world.guest.fds[1].name = fd_name(clash);
        let outcome = world.update(plan());
        assert!(matches!(
            outcome.error(),
            Some((Step::PutFds, UpdateError::NameTwice(_)))
        ));
        world.assert_untouched();
    }
}

#[test]
fn a_state_that_does_not_fit_is_rolled_back() {
    let mut world = World::new();
    let outcome = world.update(Plan {
        state_bytes: 0,
        ..plan()
    });
    assert!(matches!(
        outcome.error(),
        Some((Step::CreateBox, UpdateError::State(_)))
    ));
    world.assert_untouched();
}

#[test]
fn a_prepared_update_can_be_given_up() {
    let mut world = World::new();
    let update = Session::new(&world.store, &mut world.host, &mut world.guest, plan());
    let prepared = update.preflight().unwrap().prepare().unwrap();
    assert!(world.store.content(&box_name()).unwrap().0, "not sealed");
    let outcome = prepared.cancel();
    assert!(
        matches!(
            outcome,
            Outcome::RolledBack {
                paused_ns: None,
                ..
            }
        ),
        "{outcome}"
    );
    world.assert_untouched();

    let update = Session::new(&world.store, &mut world.host, &mut world.guest, plan());
    let paused = update
        .preflight()
        .unwrap()
        .prepare()
        .unwrap()
        .pause()
        .unwrap();
    assert!(matches!(
        paused.cancel(),
        Outcome::RolledBack {
            paused_ns: Some(_),
            ..
        }
    ));
    world.assert_untouched();
}

#[test]
fn a_guest_that_cannot_run_on_is_lost() {
    let mut world = World::new();
    world.guest.failing = vec![Call::Save, Call::Resume];
    let outcome = world.update(plan());
    assert_eq!(outcome.exit_status(), ExitStatus::GuestLost);
    assert!(
        outcome.to_string().contains("Resume was made to fail"),
        "{outcome}"
    );
    assert_eq!(world.store.content(&box_name()), None);
}
