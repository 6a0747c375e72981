//! The guest's side of an update against boxes in memory.

mod successor;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use vmm_fdbox::fake::{FakeHost, FakeStore, HostCall};
use vmm_fdbox::statefd::SavedState;
use vmm_fdbox::update::{Arrival, ResumePlan};
use vmm_fdbox::{BoxStore, FdName, Finding, Kind, OpenFdBox, Operation};

use super::*;
use crate::guest::machine::MachineError;
use crate::guest::state::sample::guest_v1;
use crate::guest::state::{GuestState, KNOWN};
use crate::service::told::{EventKind, UpdateResult};
use crate::spec::MemoryKind;

/// A machine that notes what is done with it.
#[derive(Default)]
pub(super) struct FakeMachine {
    pub(super) calls: RefCell<Vec<&'static str>>,
    save_fails: bool,
    ended: bool,
    /// It has a device of the host.
    passed: bool,
}

impl FakeMachine {
    /// One whose guest has come to its end.
    pub(super) fn at_its_end() -> Self {
        Self {
            ended: true,
            ..Self::default()
        }
    }

    fn note(&self, call: &'static str) {
        self.calls.borrow_mut().push(call);
    }
}

impl Movable for FakeMachine {
    fn duplicate_fds(&self) -> Result<Vec<(&'static str, OwnedFd)>, MachineError> {
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        Ok(vec![(VM_FD, file()), (MEMORY_FD, file())])
    }

    fn park(&self) {
        self.note("park");
    }

    fn save(&self) -> Result<GuestState, MachineError> {
        self.note("save");
        if self.save_fails {
            Err(MachineError::TooManyCpus { max: 1 })
        } else {
            Ok(guest_v1())
        }
    }

    fn run_on(&self) {
        self.note("run on");
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn has_steady_tsc(&self) -> bool {
        true
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        kinds(MemoryKind::GuestMemfd, self.passed)
    }

    fn passthrough_findings(&self, kept: Kept) -> Vec<Finding> {
        if self.passed && !kept.vfio_pci {
            vec![Finding::blocker("vfio0", "cannot be kept", "end it")]
        } else {
            Vec::new()
        }
    }

    fn duplicate_passed(&self) -> Result<Vec<(String, OwnedFd)>, MachineError> {
        let names = ["iommufd", "vfio0"]
            .into_iter()
            .take(2 * usize::from(self.passed));
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        Ok(names.map(|name| (name.into(), file())).collect())
    }

    fn leave_host(&self) -> Result<(), MachineError> {
        self.note("leave host");
        Ok(())
    }
}

pub(super) fn name() -> BoxName {
    BoxName::new("vm0").unwrap()
}

pub(super) fn an_order() -> Order {
    let clock = Clock::tsc(NonZeroU32::new(1_000_000).unwrap());
    let mut plan = Plan::new(name(), clock, state::PRODUCER);
    plan.state_bytes = state::frame_capacity(2);
    Order {
        plan,
        dry_run: false,
        cancel_after: None,
        position: None,
        watch: Watch::default(),
    }
}

/// Runs an update and returns its end and its events.
fn update(
    store: &FakeStore,
    host: &mut FakeHost,
    machine: &FakeMachine,
    order: Order,
) -> (UpdateEnd, Vec<UpdateEvent>) {
    let mut events = Vec::new();
    let end = drive(store, host, machine, order, &mut |reply| match reply {
        Reply::Event(event) => events.push(event.clone()),
        other => panic!("{other:?} among the events"),
    });
    (end, events)
}

#[test]
fn an_update_leaves_a_sealed_box_that_another_vmm_can_read() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let (end, events) = update(&store, &mut FakeHost::default(), &machine, an_order());
    assert_eq!((end.result, end.exit_status), (UpdateResult::HandedOver, 0));
    assert!(events.iter().all(|event| event.event != EventKind::Failed));
    assert_eq!(*machine.calls.borrow(), ["park", "leave host", "save"]);

    let (sealed, fds) = store.content(&name()).unwrap();
    assert_eq!((sealed, fds.len()), (true, 3));
    let mut incoming = Arrival::open(&store, ResumePlan::new(name(), &KNOWN)).unwrap();
    let state = GuestState::read(&incoming.frame()).unwrap();
    assert_eq!(state.machine, guest_v1().machine);
    incoming.take(&FdName::new(VM_FD).unwrap()).unwrap();
    incoming.take(&FdName::new(MEMORY_FD).unwrap()).unwrap();
}

#[test]
fn a_jump_that_fails_runs_the_guest_on() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let mut host = FakeHost {
        failing: vec![HostCall::Jump],
        ..FakeHost::default()
    };
    let (end, _) = update(&store, &mut host, &machine, an_order());
    assert_eq!(
        (end.result, end.exit_status),
        (UpdateResult::RolledBack, 11)
    );
    assert_eq!(end.failed_step.as_deref(), Some("jump"));
    assert!(
        end.paused_ns.is_some() && end.problems.is_empty(),
        "{end:?}"
    );
    assert_eq!(
        *machine.calls.borrow(),
        ["park", "leave host", "save", "run on"]
    );
    assert_eq!(store.content(&name()), None);
}

#[test]
fn a_state_that_cannot_be_saved_runs_the_guest_on_and_says_why() {
    let store = FakeStore::new();
    let machine = FakeMachine {
        save_fails: true,
        ..FakeMachine::default()
    };
    let (end, _) = update(&store, &mut FakeHost::default(), &machine, an_order());
    assert_eq!(end.failed_step.as_deref(), Some("save"));
    assert!(end.error.unwrap().contains("1 vCPUs per guest"));
    assert_eq!(
        *machine.calls.borrow(),
        ["park", "leave host", "save", "run on"]
    );
}

#[test]
fn a_guest_that_ends_meanwhile_is_not_handed_over() {
    let store = FakeStore::new();
    let machine = FakeMachine {
        ended: true,
        ..FakeMachine::default()
    };
    let (end, _) = update(&store, &mut FakeHost::default(), &machine, an_order());
    assert_eq!(
        (end.result, end.failed_step.as_deref()),
        (UpdateResult::RolledBack, Some("pause"))
    );
    assert_eq!(store.content(&name()), None);
}

#[test]
fn events_of_the_blackout_come_after_it_and_in_order() {
    let machine = FakeMachine::default();
    let mut host = FakeHost {
        failing: vec![HostCall::Jump],
        ..FakeHost::default()
    };
    let (_, events) = update(&FakeStore::new(), &mut host, &machine, an_order());
    assert!(
        events
            .iter()
            .any(|event| event.step.as_deref() == Some("save"))
    );
    assert!(events.is_sorted_by_key(|event| event.ns));
}

/// What a client has heard when the guest is paused.
fn heard_before_the_pause(leaves_kernel: bool) -> usize {
    let heard = RefCell::new(0);
    let mut send = |_: &Reply| *heard.borrow_mut() += 1;
    let clock = Clock::tsc(NonZeroU32::MIN);
    let mut reporter = Reporter::new(clock, leaves_kernel, &mut send);
    let events = [
        Event::Started(Step::Prebuild),
        Event::Done(Step::Prebuild),
        Event::Started(Step::Pause),
        Event::Done(Step::Pause),
    ];
    events.iter().for_each(|event| reporter.report(0, event));
    let count = *heard.borrow();
    reporter.end(UpdateEnd::ready());
    assert_eq!(*heard.borrow(), events.len());
    count
}

#[test]
fn a_client_hears_of_the_pause_before_a_kexec_only() {
    assert_eq!(heard_before_the_pause(true), 3);
    assert_eq!(heard_before_the_pause(false), 1);
}

#[test]
fn a_guest_that_cannot_be_sealed_never_stops() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    store.fail(Operation::Seal, 0, rustix::io::Errno::NOMEM);
    let (end, _) = update(&store, &mut FakeHost::default(), &machine, an_order());
    assert_eq!(
        (end.result, end.paused_ns),
        (UpdateResult::RolledBack, None)
    );
    assert!(machine.calls.borrow().is_empty());
}

#[test]
fn cancelling_after_the_seal_leaves_the_guest_alone() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let order = Order {
        cancel_after: Some(Step::Seal),
        ..an_order()
    };
    let (end, events) = update(&store, &mut FakeHost::default(), &machine, order);
    assert_eq!(
        (end.result, end.exit_status),
        (UpdateResult::RolledBack, 11)
    );
    assert!(
        events
            .iter()
            .any(|event| event.event == EventKind::RollingBack)
    );
    assert!(machine.calls.borrow().is_empty());
    assert_eq!(store.content(&name()), None);
}

#[test]
fn a_dry_run_changes_nothing() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let mut host = FakeHost::default();
    let order = Order {
        dry_run: true,
        ..an_order()
    };
    let (end, _) = update(&store, &mut host, &machine, order);
    assert_eq!((end.result, end.exit_status), (UpdateResult::Ready, 0));
    assert!(host.calls.is_empty() && machine.calls.borrow().is_empty());
    assert_eq!(store.content(&name()), None);
}

#[test]
fn blockers_are_named_and_nothing_changes() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let taken = store.create(&name()).unwrap();
    let (end, _) = update(&store, &mut FakeHost::default(), &machine, an_order());
    assert_eq!(
        (end.result, end.exit_status),
        (UpdateResult::NothingChanged, 10)
    );
    assert!(end.message.contains("vm0"), "{}", end.message);
    assert!(taken.fds().unwrap().is_empty());
}

#[test]
fn the_state_fits_what_the_plan_reserves() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let (end, _) = update(&store, &mut FakeHost::default(), &machine, an_order());
    assert!(end.has_left(), "{end:?}");
    let sealed = store.open_box(&name()).unwrap().into_sealed().unwrap();
    let open = vmm_fdbox::SealedFdBox::unseal(sealed).unwrap();
    let state = open
        .get(&FdName::new(vmm_fdbox::update::STATE_FD).unwrap())
        .unwrap();
    assert!(SavedState::read(&state).is_ok());
}

#[test]
fn devices_of_the_host_go_into_the_box_behind_what_they_reach() {
    let store = FakeStore::new();
    let machine = FakeMachine {
        passed: true,
        ..FakeMachine::default()
    };
    let (end, _) = update(&store, &mut FakeHost::default(), &machine, an_order());
    assert_eq!(end.result, UpdateResult::HandedOver, "{end:?}");
    let (_, fds) = store.content(&name()).unwrap();
    let mut names: Vec<_> = fds.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    assert_eq!(names, ["iommufd", "memory0", "vfio0", "vm", "vm-state"]);
}

#[test]
fn a_kernel_that_cannot_keep_a_device_is_not_left() {
    let store = FakeStore::new();
    store.set_info(vmm_fdbox::Info::default());
    let machine = FakeMachine {
        passed: true,
        ..FakeMachine::default()
    };
    let (end, _) = update(&store, &mut FakeHost::default(), &machine, an_order());
    assert_eq!(end.exit_status, 10, "{end:?}");
    let blockers: Vec<_> = end.findings.iter().map(|f| f.subject.as_str()).collect();
    assert!(blockers.contains(&"vfio0"), "{blockers:?}");
    assert!(machine.calls.borrow().is_empty());
}

#[test]
fn the_next_kernel_is_asked_about_devices_only_if_the_guest_has_them() {
    for (passed, exit_status) in [(true, 10), (false, 0)] {
        let machine = FakeMachine {
            passed,
            ..FakeMachine::default()
        };
        let mut host = FakeHost {
            loses: BTreeSet::from([Kind::VfioPci]),
            ..FakeHost::default()
        };
        let (end, _) = update(&FakeStore::new(), &mut host, &machine, an_order());
        assert_eq!(end.exit_status, exit_status, "{end:?}");
        assert_eq!(machine.calls.borrow().is_empty(), passed);
    }
}

#[test]
fn a_timeout_is_a_second_to_an_hour() {
    let asked = |secs| {
        let request = UpdateRequest {
            timeout: Some(secs),
            ..UpdateRequest::default()
        };
        Order::new(an_order().plan, &request).map_err(|error| chain(&error))
    };
    for secs in [1, 3600] {
        assert!(asked(secs).is_ok(), "{secs} s");
    }
    for secs in [0, 3601, u64::MAX] {
        let refused = asked(secs).unwrap_err();
        assert_eq!(refused, format!("A timeout of {secs} s: it is 1 to 3600"));
    }
}
