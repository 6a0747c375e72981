//! A guest that another kernel has, beside this one, and gives back.

use super::world::{KNOWN, World, box_name, clock, fd_name, inode, plan};
use crate::fake::FakeStore;
use crate::lending::{Holder, Lending};
use crate::update::{Arrival, Arriving, ExitStatus, ResumePlan, UpdateError};

fn held_by(store: &FakeStore, holder: Holder) {
    let lending = Lending {
        holder,
        wanted: false,
        ready: true,
        generation: 1,
        lost: false,
    };
    store.set_lending(&box_name(), lending);
}

/// A guest whose memory was taken out while the other kernel had it, and that was given back since.
fn given_back(world: &World) -> Arrival<&FakeStore> {
    held_by(&world.store, Holder::Boat);
    let mut arriving = Arriving::open_away(&world.store, &box_name()).unwrap();
    let ram = arriving.take(&fd_name("ram")).unwrap();
    assert_eq!(inode(&ram), world.guest.inodes[1]);
    held_by(&world.store, Holder::Host);
    let plan = ResumePlan {
        clock: Some(clock()),
        ..ResumePlan::new(box_name(), &KNOWN)
    };
    arriving.arrive(plan).unwrap()
}

fn handed_over() -> World {
    let mut world = World::new();
    let outcome = world.update(plan());
    assert_eq!(outcome.exit_status(), ExitStatus::Done);
    world
}

#[test]
fn what_one_kernel_uses_at_a_time_is_taken_once_the_box_is_unsealed() {
    let world = handed_over();
    let mut arrival = given_back(&world);
    assert!(arrival.take(&fd_name("vm")).is_err(), "of a sealed box");
    arrival.unseal().unwrap();
    arrival.unseal().unwrap();
    let vm = arrival.take(&fd_name("vm")).unwrap();
    assert_eq!(inode(&vm), world.guest.inodes[0]);
    arrival.check_taken().unwrap();
    let mut resumed = arrival.commit().unwrap();
    resumed.running();
    resumed.finish().deleted.unwrap();
    assert_eq!(world.store.content(&box_name()), None);
}

#[test]
fn a_box_that_was_unsealed_is_sealed_again_with_everything_in_it() {
    let world = handed_over();
    let mut arrival = given_back(&world);
    arrival.unseal().unwrap();
    drop(arrival.take(&fd_name("vm")).unwrap());
    drop(arrival);
    let (sealed, mut names) = world.store.content(&box_name()).unwrap();
    names.sort_unstable();
    assert!(sealed);
    assert_eq!(names, ["ram", "vm", "vm-state"].map(fd_name));
}

#[test]
fn what_is_left_to_the_other_kernel_need_not_be_taken() {
    let world = handed_over();
    let mut arrival = given_back(&world);
    assert!(matches!(
        arrival.check_taken(),
        Err(UpdateError::LeftInBox(left)) if left == [fd_name("vm")]
    ));
    arrival.leave(&fd_name("vm"));
    arrival.check_taken().unwrap();
}
