//! The contents of the boxes determine what the next kernel must take over.

use std::collections::BTreeSet;

use super::fleet_world;
use super::world::{World, box_name, fd_name, plan};
use crate::fake::HostCall;
use crate::kind::Kind;
use crate::name::BoxName;
use crate::store::{BoxStore, OpenFdBox};
use crate::update::{ExitStatus, NotReady, Outcome, Session, Step, UpdateError};

/// A kernel that loses files of this kind.
fn losing(kind: Kind) -> World {
    let mut world = World::new();
    world.host.loses = BTreeSet::from([kind]);
    world
}

#[track_caller]
fn assert_blocked(outcome: &Outcome, step: Step, problem: &str) {
    let Some((at, UpdateError::Blocked(found))) = outcome.error() else {
        panic!("{outcome}");
    };
    assert_eq!(at, step);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].problem, problem);
}

#[test]
fn what_the_guest_tells_of_is_asked_before_anything_is_changed() {
    let mut world = losing(Kind::VfioPci);
    world.guest.kinds = BTreeSet::from([Kind::VfioPci]);
    let outcome = world.update(plan());
    assert_blocked(&outcome, Step::Preflight, "VFIO devices are lost");
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    assert_eq!(world.host.calls, []);
    world.assert_untouched();
}

#[test]
fn the_state_is_a_memfd_whatever_the_guest_has() {
    let mut world = losing(Kind::Memfd);
    let outcome = world.update(plan());
    assert_blocked(&outcome, Step::Preflight, "memfds are lost");
}

#[test]
fn what_the_guest_did_not_tell_of_is_asked_when_it_is_in_the_box() {
    // The fake store's kind for every file.
    let mut world = losing(Kind::Other);
    let outcome = world.update(plan());
    assert_blocked(&outcome, Step::PutFds, "files of other kinds are lost");
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack);
    world.assert_untouched();
}

#[test]
fn a_sealed_box_of_somebody_else_counts_and_an_open_one_does_not() {
    let mut world = losing(Kind::Other);
    let store = world.store.clone();
    let other = store.create(&BoxName::new("other").unwrap()).unwrap();
    let fd = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    other.put(&fd_name("x"), fd).unwrap();
    let dry_run = |world: &mut World| {
        let update = Session::new(&store, &mut world.host, &mut world.guest, plan());
        update.preflight().map(|ready| drop(ready.cancel()))
    };
    dry_run(&mut world).unwrap();
    let _sealed = other.seal().unwrap();
    let outcome = dry_run(&mut world).unwrap_err();
    assert_blocked(&outcome, Step::Preflight, "files of other kinds are lost");
    assert_eq!(store.content(&box_name()), None);
}

#[test]
fn a_host_that_stays_in_its_kernel_is_not_asked() {
    let mut world = losing(Kind::Memfd);
    world.host.hands_over = true;
    let outcome = world.update(plan());
    assert!(matches!(outcome, Outcome::HandedOver), "{outcome}");
}

#[test]
fn one_guest_of_a_fleet_decides_for_all() {
    let mut world = fleet_world::World::new(NotReady::Leave);
    world.host.loses = BTreeSet::from([Kind::Iommufd]);
    world.members[1].kinds = BTreeSet::from([Kind::KvmVm, Kind::Iommufd]);
    let outcome = world.run();
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    let (step, message) = outcome.failure.unwrap();
    assert_eq!(step, Step::Preflight);
    assert!(message.contains("iommufds are lost"), "{message}");
    assert_eq!(world.count(HostCall::Load), 0);
    world.assert_untouched();
}

#[test]
fn what_goes_along_with_a_fleet_decides_too() {
    let mut world = fleet_world::World::new(NotReady::Leave);
    world.host.loses = BTreeSet::from([Kind::Other]);
    world.plan.kinds = BTreeSet::from([Kind::Other]);
    let outcome = world.run();
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    assert_eq!(outcome.findings.len(), 1);
    world.assert_untouched();
}
