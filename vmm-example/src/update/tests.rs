//! The guest's side of an update with in-memory boxes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use vmm_fdbox::fake::{FakeHost, FakeStore, HostCall};
use vmm_fdbox::statefd::SavedState;
use vmm_fdbox::update::{
    Arrival, ExitStatus, Guest, NamedFd, Outcome, Plan, ResumePlan, STATE_FD, Session, Step,
};
use vmm_fdbox::{
    BoxName, BoxStore, Clock, FdName, Features, Finding, Info, Kind, OpenFdBox, SealedFdBox, abi,
};

use super::moving::{Movable, Moving, kept};
use super::outline::{self, OUTLINE_FD};
use super::*;
use crate::devices::vfio::Kept;
use crate::guest::machine::MachineError;
use crate::guest::state::sample::guest_v1;
use crate::guest::state::{self, GuestState, KNOWN};
use crate::spec::MemoryKind;

/// A machine that records what is done to it.
#[derive(Default)]
pub(super) struct FakeMachine {
    calls: RefCell<Vec<&'static str>>,
    save_fails: bool,
    /// Whether trying to save it would report a finding.
    unsavable: bool,
    ended: bool,
    /// Whether it has a passed-through device.
    passed: bool,
    /// The kind of its memory, if it is no guest_memfd.
    memory: Option<MemoryKind>,
    /// Why it cannot go to a lifeboat.
    needs_host: Option<Finding>,
}

impl FakeMachine {
    fn note(&self, call: &'static str) {
        self.calls.borrow_mut().push(call);
    }
}

impl Movable for FakeMachine {
    fn duplicate_fds(&self, vm: bool) -> Result<Vec<(&'static str, OwnedFd)>, MachineError> {
        let names = [VM_FD, MEMORY_FD].into_iter();
        let names = names.filter(|name| vm || *name != VM_FD);
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        Ok(names.map(|name| (name, file())).collect())
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

    fn try_save(&self) -> Vec<Finding> {
        let found = Finding::blocker("The guest's state", "KVM_GET_MSRS failed", "none");
        self.unsavable.then_some(found).into_iter().collect()
    }

    fn continue_guest(&self) {
        self.note("continue");
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn has_steady_tsc(&self) -> bool {
        true
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        kinds(self.memory.unwrap_or(MemoryKind::GuestMemfd), self.passed)
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

    fn lifeboat_findings(&self) -> Vec<Finding> {
        self.needs_host.iter().cloned().collect()
    }

    fn outline(&self) -> Result<OwnedFd, PartyError> {
        outline::write(&guest_v1(), 1 << 20).map_err(party_error)
    }

    fn leave_host(&self) -> Result<(), MachineError> {
        self.note("leave host");
        Ok(())
    }
}

fn name() -> BoxName {
    BoxName::new("vm0").unwrap()
}

/// Updates as a member whose place in the order is 3.
fn update(store: &FakeStore, host: &mut FakeHost, machine: &FakeMachine) -> Outcome {
    update_and(store, host, machine, false)
}

/// The same. `boards`: the guest goes to a lifeboat.
fn update_and(
    store: &FakeStore,
    host: &mut FakeHost,
    machine: &FakeMachine,
    boards: bool,
) -> Outcome {
    let clock = Clock::tsc(NonZeroU32::new(1_000_000).unwrap());
    let mut plan = Plan::new(name(), clock, state::PRODUCER);
    plan.state_bytes = state::frame_capacity(2);
    let mut guest = Moving::new(machine);
    guest.position = Some(3);
    guest.boards = boards;
    let info = store.info().unwrap();
    (guest.kept, guest.keeps) = (kept(&info), info.features);
    Session::new(store, host, guest, plan).run()
}

const STOOD: [&str; 4] = ["park", "leave host", "save", "continue"];

#[test]
fn an_update_leaves_a_sealed_box_that_another_vmm_can_read() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let outcome = update(&store, &mut FakeHost::default(), &machine);
    assert!(matches!(outcome, Outcome::HandedOver), "{outcome:?}");
    assert_eq!(*machine.calls.borrow(), ["park", "leave host", "save"]);

    let (sealed, fds) = store.content(&name()).unwrap();
    assert_eq!((sealed, fds.len()), (true, 3));
    let mut arrival = Arrival::open(&store, ResumePlan::new(name(), &KNOWN)).unwrap();
    let state = GuestState::read(&arrival.frame()).unwrap();
    assert_eq!(state.machine, guest_v1().machine);
    assert_eq!(state::position(&arrival.frame()), Some(3));
    arrival.take(&FdName::new(VM_FD).unwrap()).unwrap();
    arrival.take(&FdName::new(MEMORY_FD).unwrap()).unwrap();
}

/// What a keeper can keep.
fn memfds_only() -> Info {
    Info {
        features: Features::from_bits(abi::FDBOX_FEATURE_KHO | abi::FDBOX_FEATURE_MEMFD),
        ..FakeStore::new().info().unwrap()
    }
}

#[test]
fn a_vm_that_cannot_be_kept_stays_and_its_memory_goes() {
    let (store, machine) = (
        FakeStore::new(),
        FakeMachine {
            memory: Some(MemoryKind::Memfd),
            ..FakeMachine::default()
        },
    );
    store.set_info(memfds_only());
    let outcome = update(&store, &mut FakeHost::default(), &machine);
    assert!(matches!(outcome, Outcome::HandedOver), "{outcome:?}");
    let (_, fds) = store.content(&name()).unwrap();
    let fds: Vec<_> = fds.iter().map(ToString::to_string).collect();
    assert_eq!(fds, [STATE_FD, MEMORY_FD]);
    let mut arrival = Arrival::open(&store, ResumePlan::new(name(), &KNOWN)).unwrap();
    let mut take = |name| arrival.take_if_there(&FdName::new(name).unwrap()).unwrap();
    assert!(take(VM_FD).is_none() && take(MEMORY_FD).is_some());
}

#[test]
fn memory_that_cannot_be_kept_is_refused_by_name() {
    for (memory, what) in [
        (None, "guest_memfd"),
        (Some(MemoryKind::Hugetlb), "huge pages"),
    ] {
        let store = FakeStore::new();
        let machine = FakeMachine {
            memory,
            ..FakeMachine::default()
        };
        store.set_info(memfds_only());
        let outcome = update(&store, &mut FakeHost::default(), &machine);
        let Outcome::NothingChanged { error, .. } = &outcome else {
            panic!("{outcome:?}")
        };
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("kind=memfd"), "{text}");
        assert_eq!(*machine.calls.borrow(), [""; 0]);
    }
}

#[test]
fn a_jump_that_fails_runs_the_guest_on() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let mut host = FakeHost {
        failing: vec![HostCall::Jump],
        ..FakeHost::default()
    };
    let outcome = update(&store, &mut host, &machine);
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack);
    assert_eq!(*machine.calls.borrow(), STOOD);
    assert_eq!(store.content(&name()), None);
}

#[test]
fn a_state_that_cannot_be_saved_runs_the_guest_on_and_says_why() {
    let store = FakeStore::new();
    let machine = FakeMachine {
        save_fails: true,
        ..FakeMachine::default()
    };
    let outcome = update(&store, &mut FakeHost::default(), &machine);
    assert_eq!(outcome.error().unwrap().0, Step::Save);
    assert!(
        outcome.to_string().contains("1 vCPUs per guest"),
        "{outcome}"
    );
    assert_eq!(*machine.calls.borrow(), STOOD);
}

#[test]
fn a_state_that_could_not_be_saved_stops_nobody() {
    let store = FakeStore::new();
    let machine = FakeMachine {
        unsavable: true,
        ..FakeMachine::default()
    };
    let outcome = update(&store, &mut FakeHost::default(), &machine);
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    assert!(outcome.to_string().contains("KVM_GET_MSRS"), "{outcome}");
    assert!(machine.calls.borrow().is_empty());
}

#[test]
fn a_guest_that_ends_meanwhile_is_not_handed_over() {
    let store = FakeStore::new();
    let machine = FakeMachine {
        ended: true,
        ..FakeMachine::default()
    };
    let outcome = update(&store, &mut FakeHost::default(), &machine);
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack);
    assert_eq!(outcome.error().unwrap().0, Step::Pause);
    assert_eq!(store.content(&name()), None);
}

#[test]
fn a_guest_that_cannot_be_sealed_never_stops() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    store.fail(vmm_fdbox::Operation::Seal, 0, rustix::io::Errno::NOMEM);
    let outcome = update(&store, &mut FakeHost::default(), &machine);
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack);
    assert!(machine.calls.borrow().is_empty());
}

#[test]
fn the_state_fits_what_the_plan_reserves() {
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let outcome = update(&store, &mut FakeHost::default(), &machine);
    assert!(matches!(outcome, Outcome::HandedOver), "{outcome:?}");
    let sealed = store.open_box(&name()).unwrap().into_sealed().unwrap();
    let open = sealed.unseal().unwrap();
    let state = open.get(&FdName::new(STATE_FD).unwrap()).unwrap();
    assert!(SavedState::read(&state).is_ok());
}

#[test]
fn devices_of_the_host_go_into_the_box_behind_what_they_reach() {
    let store = FakeStore::new();
    let machine = FakeMachine {
        passed: true,
        ..FakeMachine::default()
    };
    let outcome = update(&store, &mut FakeHost::default(), &machine);
    assert!(matches!(outcome, Outcome::HandedOver), "{outcome:?}");
    let (_, fds) = store.content(&name()).unwrap();
    let mut names: Vec<_> = fds.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    assert_eq!(names, ["iommufd", "memory0", "vfio0", "vm", "vm-state"]);
}

#[test]
fn a_kernel_that_cannot_keep_a_device_is_not_left() {
    let store = FakeStore::new();
    store.set_info(Info::default());
    let machine = FakeMachine {
        passed: true,
        ..FakeMachine::default()
    };
    let outcome = update(&store, &mut FakeHost::default(), &machine);
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    assert!(outcome.to_string().contains("vfio0"), "{outcome}");
    assert!(machine.calls.borrow().is_empty());
}

#[test]
fn the_next_kernel_is_asked_about_devices_only_if_the_guest_has_them() {
    for (passed, status) in [
        (true, ExitStatus::NothingChanged),
        (false, ExitStatus::Done),
    ] {
        let machine = FakeMachine {
            passed,
            ..FakeMachine::default()
        };
        let mut host = FakeHost {
            loses: BTreeSet::from([Kind::VfioPci]),
            ..FakeHost::default()
        };
        let outcome = update(&FakeStore::new(), &mut host, &machine);
        assert_eq!(outcome.exit_status(), status, "{outcome:?}");
        assert_eq!(machine.calls.borrow().is_empty(), passed);
    }
}

#[test]
fn a_lifeboat_gets_an_outline() {
    let store = FakeStore::new();
    let machine = FakeMachine::default();
    let outcome = update_and(&store, &mut FakeHost::default(), &machine, true);
    assert!(matches!(outcome, Outcome::HandedOver), "{outcome:?}");
    let sealed = store.open_box(&name()).unwrap().into_sealed().unwrap();
    let open = sealed.unseal().unwrap();
    let outline = open.get(&FdName::new(OUTLINE_FD).unwrap()).unwrap();
    let read = outline::read(&outline).unwrap();
    assert_eq!(read.machine, guest_v1().machine);
    assert_eq!(read.vcpus.len(), guest_v1().vcpus.len());
    rustix::io::pwrite(&outline, &[0xff; 8], 4096 + 128).unwrap();
    assert!(outline::read(&outline).is_err(), "damaged");
}

#[test]
fn an_outline_is_erased_when_the_guest_stays() {
    let machine = FakeMachine {
        memory: Some(MemoryKind::Memfd),
        ..FakeMachine::default()
    };
    let mut guest = Moving::new(&machine);
    guest.boards = true;
    let fds = guest.take_fds().unwrap();
    let is_outline = |it: &NamedFd| it.name == FdName::new(OUTLINE_FD).unwrap();
    let NamedFd { name, fd } = fds.into_iter().find(is_outline).unwrap();
    let mut file = std::fs::File::from(fd.try_clone().unwrap());
    assert!(outline::read(&file).is_ok());
    guest.give_back(&name, fd).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() > 4096 && bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn a_guest_that_a_lifeboat_cannot_carry_is_refused() {
    let needs_host = Finding::blocker("virtio-blk0", "it needs the host", "none");
    for (memory, needs_host, why) in [
        (
            Some(MemoryKind::Hugetlb),
            None,
            "it is in huge pages, which cannot be lent",
        ),
        (Some(MemoryKind::Memfd), Some(needs_host), "virtio-blk0"),
    ] {
        let machine = FakeMachine {
            memory,
            needs_host,
            ..FakeMachine::default()
        };
        let outcome = update_and(&FakeStore::new(), &mut FakeHost::default(), &machine, true);
        assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
        assert!(outcome.to_string().contains(why), "{outcome}");
        // Without a lifeboat nothing is wrong with it.
        let outcome = update(&FakeStore::new(), &mut FakeHost::default(), &machine);
        assert!(matches!(outcome, Outcome::HandedOver), "{outcome:?}");
    }
}
