//! The arriving side: the guest continues, or the box is unchanged.

use rustix::io::Errno;

use super::world::{KNOWN, World, box_name, clock, fd_name, inode, plan};
use crate::error::Operation;
use crate::fake::{FakeHost, FakeOpenBox, FakeStore};
use crate::frame::KnownSection;
use crate::statefd::StateFd;
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};
use crate::timeline::phase;
use crate::update::{
    Arrival, ExitStatus, PartyError, ResumeFailed, ResumePlan, Resumed, Session, Step, UpdateError,
};
use crate::{Features, Info, abi};

fn handed_over() -> World {
    let mut world = World::new();
    let outcome = world.update(plan());
    assert_eq!(outcome.exit_status(), ExitStatus::Done);
    world
}

fn resume_plan() -> ResumePlan<'static> {
    ResumePlan {
        clock: Some(clock()),
        ..ResumePlan::new(box_name(), &KNOWN)
    }
}

type Resume<'a> = Result<(Vec<u64>, Resumed<&'a FakeStore>), Box<ResumeFailed>>;

fn build(arrival: &mut Arrival<&FakeStore>) -> Result<Vec<u64>, PartyError> {
    assert_eq!(arrival.frame().read::<u32>("cpu")?, 1234);
    let vm = arrival.take(&fd_name("vm"))?;
    let ram = arrival.take(&fd_name("ram"))?;
    Ok(vec![inode(&vm), inode(&ram)])
}

fn resume<'a>(store: &'a FakeStore, plan: ResumePlan<'_>) -> Resume<'a> {
    Arrival::open(store, plan)?.restore(build)
}

/// The box is sealed with everything in it.
fn assert_intact(store: &FakeStore) {
    let (sealed, mut names) = store.content(&box_name()).expect("the box is gone");
    names.sort_unstable();
    assert!(sealed);
    assert_eq!(names, ["ram", "vm", "vm-state"].map(fd_name));
}

#[test]
fn a_guest_goes_over() {
    let world = handed_over();
    let (inodes, mut resumed) = resume(&world.store, resume_plan()).unwrap();
    assert_eq!(inodes, world.guest.inodes);
    resumed.running();
    let finished = resumed.finish();
    finished.deleted.unwrap();
    assert_eq!(world.store.content(&box_name()), None);
    let report = finished.report.unwrap();
    let names: Vec<_> = report
        .phases
        .iter()
        .map(|phase| phase.name.as_str())
        .collect();
    let expected = [
        phase::PAUSE,
        phase::SAVE,
        phase::JUMP,
        phase::TAKE_OUT,
        phase::RESTORE,
    ];
    assert_eq!(names, expected);
    assert_eq!(
        report.total_ns,
        report.phases.iter().map(|phase| phase.ns).sum::<u64>()
    );
    assert_eq!(report.before.len(), 3);
    assert_eq!(report.before[2].name, phase::QUIESCE);
}

#[test]
fn a_box_that_cannot_be_deleted_is_told_and_the_guest_is_over() {
    let world = handed_over();
    let mut plan = resume_plan();
    plan.fail_at = Some(Step::Finish);
    let (_, mut resumed) = resume(&world.store, plan).unwrap();
    resumed.running();
    let finished = resumed.finish();
    assert!(matches!(
        finished.deleted,
        Err(UpdateError::Injected(Step::Finish))
    ));
    assert!(finished.report.is_ok());
    // What is left in the box is not a guest that could be taken twice.
    assert!(resume(&world.store, resume_plan()).is_err());
    let (sealed, names) = world.store.content(&box_name()).unwrap();
    assert!(!sealed && !names.contains(&fd_name("vm-state")));
}

#[test]
fn what_was_lost_on_the_way_is_named_and_the_box_stays_sealed() {
    let world = handed_over();
    world.store.lose(&fd_name("ram"));
    let failed = resume(&world.store, resume_plan()).unwrap_err();
    assert_eq!(failed.exit_status(), ExitStatus::NothingChanged);
    assert!(
        failed
            .to_string()
            .contains("'ram' (fake): its memory was not kept by the last kernel"),
        "{failed}"
    );
    assert_intact(&world.store);
}

#[test]
fn whatever_fails_another_try_succeeds() {
    // An operation that fails, and how often it succeeds before.
    let cases = [
        (Operation::OpenBox, 0),
        (Operation::Unseal, 0),
        (Operation::Get, 0),
        (Operation::Get, 2),
    ];
    for (operation, skip) in cases {
        let world = handed_over();
        world.store.fail(operation, skip, Errno::NOMEM);
        let failed = resume(&world.store, resume_plan()).unwrap_err();
        assert!(failed.can_retry(), "{failed}");
        assert_eq!(failed.exit_status(), ExitStatus::NothingChanged);
        assert_intact(&world.store);
        assert!(resume(&world.store, resume_plan()).is_ok());
    }
    for step in [Step::Open, Step::Restore] {
        let world = handed_over();
        let plan = ResumePlan {
            fail_at: Some(step),
            ..resume_plan()
        };
        let failed = resume(&world.store, plan).unwrap_err();
        assert!(
            matches!(failed.error, UpdateError::Injected(at) if at == step),
            "{failed}"
        );
        assert_eq!(failed.step, step);
        assert_intact(&world.store);
        assert!(resume(&world.store, resume_plan()).is_ok());
    }
}

#[test]
fn a_vm_that_cannot_be_rebuilt_goes_back() {
    let world = handed_over();
    let arrival = Arrival::open(&world.store, resume_plan()).unwrap();
    let failed = arrival
        .restore(|arrival| {
            build(arrival)?;
            Err::<(), _>("no such CPU feature".into())
        })
        .unwrap_err();
    assert!(
        failed
            .to_string()
            .contains("no such CPU feature; the box is as it was"),
        "{failed}"
    );
    assert_intact(&world.store);
}

#[test]
fn a_descriptor_left_behind_is_named() {
    let world = handed_over();
    let arrival = Arrival::open(&world.store, resume_plan()).unwrap();
    let failed = arrival
        .restore(|arrival| Ok(arrival.take(&fd_name("vm"))?))
        .unwrap_err();
    assert!(matches!(&failed.error, UpdateError::LeftInBox(names) if *names == [fd_name("ram")]));
    assert_intact(&world.store);
}

#[test]
fn a_required_section_that_is_unknown_is_refused_by_name() {
    let world = handed_over();
    let known = [KnownSection::new("gpu", 1, 1)];
    let plan = ResumePlan {
        known: &known,
        ..resume_plan()
    };
    let failed = Arrival::open(&world.store, plan).unwrap_err();
    assert!(failed.to_string().contains("Section 'cpu'"), "{failed}");
    assert_intact(&world.store);
}

#[test]
fn dropping_it_puts_everything_back() {
    let world = handed_over();
    let mut arrival = Arrival::open(&world.store, resume_plan()).unwrap();
    drop(arrival.take(&fd_name("ram")).unwrap());
    assert_eq!(arrival.remaining().len(), 1);
    drop(arrival);
    assert_intact(&world.store);
}

fn unseal(store: &FakeStore) -> FakeOpenBox {
    let sealed = store.open_box(&box_name()).unwrap().into_sealed().unwrap();
    sealed.unseal().unwrap()
}

#[test]
fn a_guest_in_an_open_box_is_sealed_by_who_fails_to_resume_it() {
    for known in [&KNOWN[..], &[]] {
        let world = handed_over();
        unseal(&world.store);
        let plan = ResumePlan {
            known,
            fail_at: Some(Step::Restore),
            ..resume_plan()
        };
        resume(&world.store, plan).unwrap_err();
        // It can go back to the kernel that it came from.
        assert_intact(&world.store);
        assert!(resume(&world.store, resume_plan()).is_ok());
    }
}

#[test]
fn an_open_box_without_a_guest_is_left_open() {
    let store = FakeStore::new();
    let open = store.create(&box_name()).unwrap();
    let (_state, fd) = StateFd::create(8192).unwrap();
    open.put(&fd_name("vm-state"), fd).unwrap();
    let failed = resume(&store, resume_plan()).unwrap_err();
    assert!(failed.to_string().contains("empty"), "{failed}");
    assert!(!store.content(&box_name()).unwrap().0);
}

#[test]
fn a_box_that_somebody_works_on_is_left_alone() {
    let world = handed_over();
    let mut first = Arrival::open(&world.store, resume_plan()).unwrap();
    drop(first.take(&fd_name("ram")).unwrap());
    let failed = resume(&world.store, resume_plan()).unwrap_err();
    assert!(failed.to_string().contains("another process"), "{failed}");
    assert!(failed.can_retry());
    assert!(!world.store.content(&box_name()).unwrap().0);
    drop(first);
    assert_intact(&world.store);
    assert!(resume(&world.store, resume_plan()).is_ok());
}

#[test]
fn an_update_works_on_its_box_until_it_has_left() {
    let mut world = World::new();
    let store = world.store.clone();
    let mut host = FakeHost::default();
    let update = Session::new(&store, &mut host, &mut world.guest, plan());
    let prepared = update.preflight().unwrap().prepare().unwrap();
    let failed = resume(&store, resume_plan()).unwrap_err();
    assert!(failed.to_string().contains("another process"), "{failed}");
    assert_intact(&store);
    let outcome = prepared.pause().unwrap().jump();
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome}");
    assert!(resume(&store, resume_plan()).is_ok());
}

#[test]
fn no_box_is_no_guest() {
    let failed = resume(&FakeStore::new(), resume_plan())
        .unwrap_err()
        .to_string();
    assert!(
        failed.contains("No box 'vm0': the guest was not handed over"),
        "{failed}"
    );
    let store = FakeStore::new();
    let features = Features::from_bits(abi::FDBOX_FEATURE_REFUSED);
    store.set_info(Info {
        features,
        ..Info::default()
    });
    let failed = resume(&store, resume_plan()).unwrap_err();
    assert!(
        !failed.can_retry() && failed.to_string().contains("was refused"),
        "{failed}"
    );
}

#[test]
fn a_box_that_takes_nothing_any_more_loses_nothing() {
    let world = handed_over();
    // The second one is the VM.
    world.store.fail(Operation::Get, 1, Errno::NOMEM);
    world.store.fail(Operation::Put, 0, Errno::NOMEM);
    let failed = resume(&world.store, resume_plan()).unwrap_err();
    assert!(failed.can_retry());
    assert_eq!(failed.exit_status(), ExitStatus::NothingChanged);
    let text = failed.to_string();
    assert!(text.contains("Cannot take 'vm' in box vm0"), "{text}");
    assert_intact(&world.store);
    assert!(resume(&world.store, resume_plan()).is_ok());
}

#[test]
fn a_program_killed_on_the_way_leaves_everything() {
    let world = handed_over();
    let mut arrival = Arrival::open(&world.store, resume_plan()).unwrap();
    arrival.take(&fd_name("vm")).unwrap();
    arrival.take(&fd_name("ram")).unwrap();
    // As after a kill: no destructor runs.
    std::mem::forget(arrival);
    world.store.end_claims();
    let (sealed, names) = world.store.content(&box_name()).unwrap();
    assert!(!sealed);
    assert_eq!(names.len(), 3);
    let (inodes, _resumed) = resume(&world.store, resume_plan()).unwrap();
    assert_eq!(inodes, world.guest.inodes);
}

/// No retry can succeed, and the message does not suggest one.
#[track_caller]
fn assert_no_retry(failed: &ResumeFailed, expected: &str) {
    let text = failed.to_string();
    assert!(text.contains(expected), "{text}");
    assert!(!failed.can_retry() && !text.contains("try again"), "{text}");
}

#[test]
fn a_state_that_nobody_can_read_is_not_tried_again() {
    // An update that was killed before it wrote the state.
    let store = FakeStore::new();
    let open = store.create(&box_name()).unwrap();
    let (_state, fd) = StateFd::create(8192).unwrap();
    open.put(&fd_name("vm-state"), fd).unwrap();
    let _sealed = open.seal().unwrap();
    let failed = resume(&store, resume_plan()).unwrap_err();
    assert_no_retry(&failed, "VM state is empty");
    // A state that another binary can read is different.
    let world = handed_over();
    let known = [KnownSection::new("cpu", 2, 2)];
    let plan = ResumePlan {
        known: &known,
        ..resume_plan()
    };
    let failed = resume(&world.store, plan).unwrap_err();
    assert!(failed.can_retry(), "{failed}");
}

#[test]
fn who_takes_the_state_away_before_the_commit_has_the_guest() {
    let world = handed_over();
    let arrival = Arrival::open(&world.store, resume_plan()).unwrap();
    let taken = arrival.restore(|arrival| {
        let built = build(arrival)?;
        let open = world
            .store
            .open_box(&box_name())?
            .into_open()
            .ok_or("sealed")?;
        open.get(&fd_name("vm-state"))?;
        Ok(built)
    });
    assert_no_retry(&taken.unwrap_err(), "No guest's state in box 'vm0'");
}

#[test]
fn a_guest_that_runs_cannot_be_taken_again() {
    let world = handed_over();
    let (_, resumed) = resume(&world.store, resume_plan()).unwrap();
    let failed = resume(&world.store, resume_plan()).unwrap_err();
    assert!(failed.to_string().contains("another process"), "{failed}");
    // Nor when that other process is gone.
    world.store.end_claims();
    let failed = resume(&world.store, resume_plan()).unwrap_err();
    assert!(
        matches!(failed.error, UpdateError::TakenAlready(_)),
        "{failed}"
    );
    assert_no_retry(&failed, "No guest's state in box 'vm0'");
    resumed.finish().deleted.unwrap();
}

#[test]
fn a_box_that_cannot_be_sealed_again_is_not_lost() {
    let world = handed_over();
    world.store.fail(Operation::Seal, 0, Errno::NOMEM);
    let plan = ResumePlan {
        fail_at: Some(Step::Restore),
        ..resume_plan()
    };
    let failed = resume(&world.store, plan).unwrap_err();
    assert!(failed.can_retry());
    assert!(
        failed.to_string().contains("Cannot seal box vm0"),
        "{failed}"
    );
    assert!(resume(&world.store, resume_plan()).is_ok());
}
