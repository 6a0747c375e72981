//! What remains of an update whose rollback failed in part, or that was dropped.

use rustix::io::Errno;

use super::world::{Call, World, box_name, clock, fd_name, plan};
use crate::boxes::AnyBox;
use crate::error::Operation;
use crate::fake::HostCall;
use crate::frame::FrameError;
use crate::statefd::{SavedState, StateError};
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};
use crate::update::{
    Event, ExitStatus, Outcome, Plan, STATE_FD, SameHost, Session, Step, UpdateError,
};

/// What a resume would find in the guest's box, which stayed.
fn state_left(world: &World) -> Result<SavedState, StateError> {
    let open = match world.store.open_box(&box_name()).unwrap() {
        AnyBox::Open(open) => open,
        AnyBox::Sealed(sealed) => sealed.unseal().unwrap(),
    };
    SavedState::read(open.get(&fd_name(STATE_FD)).unwrap())
}

#[test]
fn a_guest_that_runs_on_cannot_be_resumed_out_of_a_box_that_stays() {
    for fail_at in [Step::Save, Step::Jump] {
        let mut world = World::new();
        world.store.fail(Operation::Unseal, 0, Errno::NOMEM);
        let outcome = world.update(Plan {
            fail_at: Some(fail_at),
            ..plan()
        });
        assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome}");
        assert!(world.guest.running);
        let left = state_left(&world);
        let empty = matches!(left, Err(StateError::Frame(FrameError::Empty)));
        assert!(empty, "{left:?}");
    }
}

#[test]
fn a_kernel_that_ends_takes_a_saved_guest_along() {
    let mut world = World::new();
    world.host.failing = vec![HostCall::Jump];
    // UNSEAL returns this once the reboot has begun.
    world.store.fail(Operation::Unseal, 0, Errno::AGAIN);
    let outcome = world.update(plan());
    assert!(matches!(outcome, Outcome::HandedOver), "{outcome}");
    assert!(!world.guest.running);
    assert!(state_left(&world).is_ok());

    // A guest without its state would be lost there: it runs for as long as it can.
    let mut world = World::new();
    world.guest.failing = vec![Call::Save];
    world.store.fail(Operation::Unseal, 0, Errno::AGAIN);
    let outcome = world.update(plan());
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome}");
    assert!(world.guest.running);
}

#[test]
fn a_rollback_goes_on_past_its_problems() {
    for (operation, left) in [(Operation::Unseal, 3), (Operation::Get, 2)] {
        let mut world = World::new();
        world.store.fail(operation, 0, Errno::NOMEM);
        let outcome = world.update(Plan {
            fail_at: Some(Step::Jump),
            ..plan()
        });
        let Outcome::RolledBack { problems, .. } = outcome else {
            panic!("{outcome}")
        };
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains("Box vm0 stays")),
            "{problems:?}"
        );
        // What could not be taken back stays in the box rather than being dropped with it.
        assert_eq!(world.store.content(&box_name()).unwrap().1.len(), left);
        assert!(world.guest.running);
        assert_eq!(world.host.calls.last(), Some(&HostCall::Unload));
    }
    let mut world = World::new();
    world.host.failing = vec![HostCall::Unload];
    world.guest.failing = vec![Call::GiveBack];
    world.store.fail(Operation::Delete, 0, Errno::NOMEM);
    let outcome = world.update(Plan {
        fail_at: Some(Step::Jump),
        ..plan()
    });
    let Outcome::RolledBack { problems, .. } = outcome else {
        panic!("{outcome}")
    };
    assert_eq!(problems.len(), 4, "{problems:?}");
}

#[test]
fn without_a_kexec_no_kho_is_needed() {
    let mut world = World::without_kho();
    let outcome = Session::new(&world.store, &mut SameHost, &mut world.guest, plan()).run();
    assert!(matches!(outcome, Outcome::HandedOver), "{outcome}");
    assert_eq!(clock().khz().get(), 1_000_000);
    let (sealed, names) = world.store.content(&box_name()).unwrap();
    assert!(sealed);
    assert_eq!(names.len(), 3);
}

#[test]
fn a_box_that_is_deleted_under_the_update_is_reported() {
    let mut world = World::new();
    let store = world.store.clone();
    let mut observer = |_: u64, event: &Event| {
        if *event == Event::Done(Step::CreateBox) {
            store.delete(&box_name()).unwrap();
        }
    };
    let outcome = Session::new(&world.store, &mut world.host, &mut world.guest, plan())
        .observed_by(&mut observer)
        .run();
    assert!(
        matches!(outcome.error(), Some((Step::PutFds, UpdateError::Box(_)))),
        "{outcome}"
    );
    assert!(world.guest.is_whole());
    // The handle of a deleted box returns an error.
    let open = store.create(&box_name()).unwrap();
    store.delete(&box_name()).unwrap();
    assert_eq!(open.fds().unwrap_err().errno(), Errno::NODEV);
}

#[test]
fn an_update_that_is_dropped_is_rolled_back() {
    let mut world = World::new();
    let update = Session::new(&world.store, &mut world.host, &mut world.guest, plan());
    drop(
        update
            .preflight()
            .unwrap()
            .prepare()
            .unwrap()
            .pause()
            .unwrap(),
    );
    world.assert_untouched();
}

#[test]
fn a_module_that_cannot_keep_the_state_is_reported() {
    let mut world = World::new();
    world.store.set_info(crate::Info::default());
    let outcome = world.update(plan());
    assert!(
        outcome.to_string().contains("The fdbox module"),
        "{outcome}"
    );
    world.assert_untouched();
}
