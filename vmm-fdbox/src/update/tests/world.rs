//! An in-memory guest, and what the tests check about it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, fstat, memfd_create};

use crate::deadline::Deadline;
use crate::fake::{FakeHost, FakeStore};
use crate::finding::Finding;
use crate::frame::{FrameWriter, KnownSection, Need};
use crate::name::{BoxName, FdName};
use crate::update::{Guest, NamedFd, Outcome, PartyError, Plan, Session};
use crate::{Clock, Features, Info, Kind, abi};

/// Where a guest can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    TakeFds,
    Quiesce,
    Pause,
    Save,
    Resume,
    GiveBack,
}

/// A guest with two descriptors.
pub(super) struct TestGuest {
    pub(super) fds: Vec<NamedFd>,
    /// The identity of the descriptors, so that a test can tell whether they came back.
    pub(super) inodes: Vec<u64>,
    pub(super) running: bool,
    pub(super) failing: Vec<Call>,
    pub(super) findings: Vec<Finding>,
    pub(super) kinds: BTreeSet<Kind>,
}

pub(super) fn fd_name(name: &str) -> FdName {
    FdName::new(name).unwrap()
}

pub(super) fn box_name() -> BoxName {
    BoxName::new("vm0").unwrap()
}

pub(super) fn inode(fd: impl AsFd) -> u64 {
    fstat(fd).unwrap().st_ino
}

impl TestGuest {
    pub(super) fn new() -> Self {
        let make = |name: &str| NamedFd {
            name: fd_name(name),
            fd: memfd_create(name, MemfdFlags::CLOEXEC).unwrap(),
        };
        let fds = vec![make("vm"), make("ram")];
        let inodes = fds.iter().map(|named| inode(&named.fd)).collect();
        Self {
            fds,
            inodes,
            running: true,
            failing: Vec::new(),
            findings: Vec::new(),
            kinds: BTreeSet::new(),
        }
    }

    fn call(&self, call: Call) -> Result<(), PartyError> {
        if self.failing.contains(&call) {
            return Err(format!("{call:?} was made to fail").into());
        }
        Ok(())
    }

    /// Whether the guest has all of its descriptors.
    pub(super) fn is_whole(&self) -> bool {
        let mut now: Vec<u64> = self.fds.iter().map(|named| inode(&named.fd)).collect();
        let mut then = self.inodes.clone();
        now.sort_unstable();
        then.sort_unstable();
        now == then
    }
}

impl Guest for TestGuest {
    fn preflight(&mut self) -> Vec<Finding> {
        self.findings.clone()
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        self.kinds.clone()
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        self.call(Call::TakeFds)?;
        Ok(std::mem::take(&mut self.fds))
    }

    fn quiesce(&mut self, _: Deadline) -> Result<(), PartyError> {
        assert!(self.running, "it came to rest after it was paused");
        self.call(Call::Quiesce)
    }

    fn pause(&mut self, _: Deadline) -> Result<(), PartyError> {
        self.running = false;
        self.call(Call::Pause)
    }

    fn save(&mut self, frame: &mut FrameWriter<'_>, _: Deadline) -> Result<(), PartyError> {
        frame.add("cpu", 1, Need::Required, &1234u32)?;
        self.call(Call::Save)
    }

    fn give_back(&mut self, name: &FdName, fd: OwnedFd) -> Result<(), PartyError> {
        self.call(Call::GiveBack)?;
        self.fds.push(NamedFd {
            name: name.clone(),
            fd,
        });
        Ok(())
    }

    fn resume_in_place(&mut self) -> Result<(), PartyError> {
        self.call(Call::Resume)?;
        self.running = true;
        Ok(())
    }
}

pub(super) const KNOWN: [KnownSection; 1] = [KnownSection::new("cpu", 1, 1)];

thread_local! {
    static TICKS: Cell<u64> = const { Cell::new(1) };
}

/// A clock that advances by one tick, 1 ns, each time it is read.
pub(super) fn clock() -> Clock {
    let khz = NonZeroU32::new(1_000_000).unwrap();
    Clock::with_source(khz, || TICKS.replace(TICKS.get() + 1))
}

pub(super) fn plan() -> Plan {
    Plan {
        state_bytes: 8192,
        ..Plan::new(box_name(), clock(), "test 1")
    }
}

/// A guest, a host and boxes, and one update of them.
pub(super) struct World {
    pub(super) store: FakeStore,
    pub(super) host: FakeHost,
    pub(super) guest: TestGuest,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            store: FakeStore::new(),
            host: FakeHost::default(),
            guest: TestGuest::new(),
        }
    }

    pub(super) fn without_kho() -> Self {
        let world = Self::new();
        let features = Features::from_bits(abi::FDBOX_FEATURE_MEMFD);
        world.store.set_info(Info {
            uapi_version: 1,
            features,
            ..Info::default()
        });
        world
    }

    pub(super) fn update(&mut self, plan: Plan) -> Outcome {
        Session::new(&self.store, &mut self.host, &mut self.guest, plan).run()
    }

    /// Asserts that nothing is left of an update: the guest runs, whole, and there is no box.
    pub(super) fn assert_untouched(&self) {
        assert!(self.guest.running, "the guest does not run");
        assert!(self.guest.is_whole(), "descriptors are missing");
        assert_eq!(self.store.content(&box_name()), None, "a box is left");
        let loads = |call| self.host.calls.iter().filter(|c| **c == call).count();
        use crate::fake::HostCall::{Load, Unload};
        if !self.host.failing.contains(&Load) {
            assert_eq!(loads(Load), loads(Unload), "a kernel stays loaded");
        }
    }
}
