//! Hosts that hand the box over themselves, in one kernel: exactly one VMM runs the guest.

use rustix::io::Errno;

use super::world::{KNOWN, World, box_name, clock, fd_name, inode, plan};
use crate::deadline::Deadline;
use crate::error::Operation;
use crate::fake::{FakeHost, FakeStore, HostCall};
use crate::finding::Finding;
use crate::store::{BoxStore, OpenFdBox};
use crate::update::{
    Arriving, ExitStatus, Host, Outcome, PartyError, Plan, ResumePlan, STATE_FD, Session, Step,
    UpdateError,
};

fn world() -> World {
    let mut world = World::without_kho();
    world.host.hands_over = true;
    world
}

fn resume_plan() -> ResumePlan<'static> {
    ResumePlan {
        clock: Some(clock()),
        ..ResumePlan::new(box_name(), &KNOWN)
    }
}

/// A host whose new VMM does what the test asks during the blackout.
struct NewVmm<'a> {
    store: &'a FakeStore,
    early: Option<Arriving<&'a FakeStore>>,
    /// The descriptors it took ahead of time.
    inodes: Vec<u64>,
    plan: ResumePlan<'static>,
    /// It takes the guest, and then disappears.
    vanishes: bool,
    /// The error that its old VMM gets in that case.
    get_fails_with: Errno,
}

impl<'a> NewVmm<'a> {
    fn new(store: &'a FakeStore) -> Self {
        Self {
            store,
            early: None,
            inodes: Vec::new(),
            plan: resume_plan(),
            vanishes: false,
            get_fails_with: Errno::NOENT,
        }
    }
}

impl Host for NewVmm<'_> {
    fn preflight(&mut self) -> Vec<Finding> {
        Vec::new()
    }

    fn leaves_kernel(&self) -> bool {
        false
    }

    fn seals(&self) -> bool {
        false
    }

    fn prebuild(&mut self) -> Result<(), PartyError> {
        let mut early = Arriving::open(self.store, &box_name())?;
        for name in ["vm", "ram"] {
            self.inodes.push(inode(early.take(&fd_name(name))?));
        }
        self.early = Some(early);
        Ok(())
    }

    fn load(&mut self) -> Result<(), PartyError> {
        Ok(())
    }

    fn unload(&mut self) -> Result<(), PartyError> {
        self.early = None;
        Ok(())
    }

    fn jump(&mut self, _: Deadline) -> Result<(), PartyError> {
        let early = self.early.take().ok_or("nobody is there")?;
        let arrival = early.arrive(self.plan.clone())?;
        let ((), mut resumed) = arrival.restore(|_| Ok(()))?;
        if self.vanishes {
            self.store.fail(Operation::Get, 0, self.get_fails_with);
            return Err("it is gone".into());
        }
        resumed.running();
        resumed.finish().deleted?;
        Ok(())
    }
}

fn run<H: Host>(store: &FakeStore, host: &mut H, world: &mut World, plan: Plan) -> Outcome {
    Session::new(store, host, &mut world.guest, plan).run()
}

#[test]
fn a_box_that_nobody_waits_for_sealed_is_not_sealed() {
    let mut world = world();
    let outcome = world.update(plan());
    assert_eq!(outcome.exit_status(), ExitStatus::Done);
    let (sealed, names) = world.store.content(&box_name()).unwrap();
    assert_eq!((sealed, names.len()), (false, 3));
    let calls = [HostCall::Load, HostCall::Prebuild, HostCall::Jump];
    assert_eq!(world.host.calls, calls);
}

#[test]
fn every_step_can_fail() {
    let steps = Step::ALL.into_iter();
    for step in steps.filter(|step| *step <= Step::Jump && *step != Step::Seal) {
        let mut world = world();
        let outcome = world.update(Plan {
            fail_at: Some(step),
            ..plan()
        });
        assert!(matches!(outcome.error(), Some((at, UpdateError::Injected(_))) if at == step));
        world.assert_untouched();
    }
}

#[test]
fn a_new_vmm_that_cannot_prepare_stops_nobody() {
    let mut world = world();
    world.host = FakeHost {
        failing: vec![HostCall::Prebuild],
        hands_over: true,
        ..FakeHost::default()
    };
    let outcome = world.update(plan());
    let Outcome::RolledBack {
        step, paused_ns, ..
    } = outcome
    else {
        panic!("{outcome}")
    };
    assert_eq!((step, paused_ns), (Step::Prebuild, None));
    world.assert_untouched();
}

#[test]
fn what_was_taken_early_goes_over() {
    let mut world = world();
    let store = world.store.clone();
    let mut host = NewVmm::new(&store);
    let outcome = run(&store, &mut host, &mut world, plan());
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome}");
    assert_eq!(host.inodes, world.guest.inodes);
    assert_eq!(store.content(&box_name()), None);
}

#[test]
fn a_new_vmm_that_fails_in_the_blackout_leaves_the_guest_here() {
    for step in [Step::Open, Step::Restore] {
        let mut world = world();
        let store = world.store.clone();
        let mut host = NewVmm::new(&store);
        host.plan.fail_at = Some(step);
        let outcome = run(&store, &mut host, &mut world, plan());
        assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome}");
        world.assert_untouched();
    }
}

#[test]
fn a_guest_that_was_taken_does_not_run_twice() {
    // Also if no descriptor is left to check with.
    for get_fails_with in [Errno::NOENT, Errno::MFILE] {
        let mut world = world();
        let store = world.store.clone();
        let mut host = NewVmm {
            vanishes: true,
            get_fails_with,
            ..NewVmm::new(&store)
        };
        let outcome = run(&store, &mut host, &mut world, plan());
        assert_eq!(outcome.exit_status(), ExitStatus::GuestLost, "{outcome}");
        assert!(!world.guest.running);
    }
}

#[test]
fn a_state_that_cannot_be_taken_out_is_nobodys_before_the_guest_runs_on() {
    let mut world = world();
    world.host.failing.push(HostCall::Jump);
    world.store.fail(Operation::Get, 0, Errno::MFILE);
    let outcome = world.update(plan());
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome}");
    world.assert_untouched();
}

#[test]
fn a_guest_that_was_rolled_back_cannot_be_taken() {
    let mut world = world();
    world.host.failing.push(HostCall::Jump);
    // Keep the box for the test to inspect.
    world.store.fail(Operation::Delete, 0, Errno::NOMEM);
    let outcome = world.update(plan());
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome}");
    assert!(world.guest.running);
    let open = world.store.open_box(&box_name()).unwrap().into_open();
    let state = open.unwrap().get(&fd_name(STATE_FD));
    assert!(state.is_err_and(|error| error.errno() == Errno::NOENT));
}

#[test]
fn what_vanished_from_the_box_is_no_reason_to_keep_it() {
    let mut world = world();
    world.host.failing.push(HostCall::Jump);
    // The state can be taken out, the VM cannot.
    world.store.fail(Operation::Get, 1, Errno::NOENT);
    let outcome = world.update(plan());
    let Outcome::RolledBack { problems, .. } = outcome else {
        panic!("{outcome}")
    };
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(world.store.content(&box_name()), None);
}
