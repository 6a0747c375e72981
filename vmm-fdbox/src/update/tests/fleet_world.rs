//! Three in-memory guests, and their host.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::Kind;
use crate::fake::{FakeHost, HostCall};
use crate::update::{
    ExitStatus, Fleet, FleetOutcome, FleetPlan, Member, NotReady, Objection, Stopped,
};

/// A call of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Preflight,
    Prepare,
    Quiesce,
    SetDown,
    Pause,
    RollBack,
    HandOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Prepared,
    Quiet,
    Down,
    Paused,
    HandedOver,
}

/// An in-memory guest. It undoes everything itself when it fails, as the contract requires.
pub(super) struct Guest {
    name: &'static str,
    pub(super) fails_at: Option<Call>,
    pub(super) also_fails_at: Option<Call>,
    pub(super) cancels: bool,
    pub(super) cancel_asked: bool,
    pub(super) kinds: BTreeSet<Kind>,
    state: Arc<Mutex<State>>,
    /// The states of all guests.
    all: Vec<Arc<Mutex<State>>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Guest {
    fn call(&mut self, call: Call, state: State) -> Result<(), Stopped> {
        self.calls.lock().unwrap().push(call);
        if ![self.fails_at, self.also_fails_at].contains(&Some(call)) {
            *self.state.lock().unwrap() = state;
            return Ok(());
        }
        Err(Stopped {
            cancelled: self.cancels,
            ..self.undone("was made to fail")
        })
    }

    fn assert_none_is(&self, unwanted: State) {
        let states = self.all.iter().map(|state| *state.lock().unwrap());
        assert!(!states.into_iter().any(|state| state == unwanted));
    }

    fn undone(&mut self, message: &str) -> Stopped {
        let state = std::mem::replace(&mut *self.state.lock().unwrap(), State::Running);
        let status = match state {
            State::Running => ExitStatus::NothingChanged,
            _ => ExitStatus::RolledBack,
        };
        Stopped {
            status,
            ..Stopped::untouched(message)
        }
    }
}

impl Member for Guest {
    fn name(&self) -> &str {
        self.name
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        self.kinds.clone()
    }

    fn preflight(&mut self) -> Result<(), Stopped> {
        self.call(Call::Preflight, State::Running)
    }

    fn prepare(&mut self) -> Result<(), Stopped> {
        self.call(Call::Prepare, State::Prepared)
    }

    fn quiesce(&mut self) -> Result<(), Stopped> {
        // No guest is paused while another one's disk finishes.
        self.assert_none_is(State::Paused);
        self.call(Call::Quiesce, State::Quiet)
    }

    fn pause(&mut self) -> Result<(), Stopped> {
        self.assert_none_is(State::Prepared);
        self.call(Call::Pause, State::Paused)
    }

    fn set_down(&mut self) -> Result<(), String> {
        // All others run, so this costs them nothing.
        self.assert_none_is(State::Paused);
        let why = |stopped: Stopped| stopped.message;
        self.call(Call::SetDown, State::Down).map_err(why)
    }

    fn objection(&mut self) -> Option<Objection> {
        self.cancel_asked.then_some(Objection::Cancelled)
    }

    fn roll_back(&mut self) -> Stopped {
        self.calls.lock().unwrap().push(Call::RollBack);
        self.undone("rolled back")
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        self.call(Call::HandOver, State::HandedOver)
    }
}

/// Three guests and a host.
pub(super) struct World {
    pub(super) members: Vec<Guest>,
    states: Vec<Arc<Mutex<State>>>,
    calls: Vec<Arc<Mutex<Vec<Call>>>>,
    pub(super) host: FakeHost,
    pub(super) plan: FleetPlan,
}

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

impl World {
    pub(super) fn new(not_ready: NotReady) -> Self {
        let states: Vec<_> = NAMES.map(|_| Arc::new(Mutex::new(State::Running))).into();
        let calls: Vec<Arc<Mutex<Vec<Call>>>> = NAMES.map(|_| Arc::default()).into();
        let member = |(at, name): (usize, &&'static str)| Guest {
            name,
            fails_at: None,
            also_fails_at: None,
            cancels: false,
            cancel_asked: false,
            kinds: BTreeSet::new(),
            state: Arc::clone(&states[at]),
            all: states.clone(),
            calls: Arc::clone(&calls[at]),
        };
        Self {
            members: NAMES.iter().enumerate().map(member).collect(),
            states,
            calls,
            host: FakeHost::default(),
            plan: FleetPlan {
                not_ready,
                ..FleetPlan::default()
            },
        }
    }

    pub(super) fn failing(not_ready: NotReady, guest: usize, call: Call) -> Self {
        let mut world = Self::new(not_ready);
        world.members[guest].fails_at = Some(call);
        world
    }

    pub(super) fn run(&mut self) -> FleetOutcome {
        let members = std::mem::take(&mut self.members);
        Fleet::new(&mut self.host, members, self.plan.clone()).run()
    }

    pub(super) fn states(&self) -> Vec<State> {
        self.states
            .iter()
            .map(|state| *state.lock().unwrap())
            .collect()
    }

    pub(super) fn calls(&self, guest: usize) -> Vec<Call> {
        self.calls[guest].lock().unwrap().clone()
    }

    pub(super) fn count(&self, call: HostCall) -> usize {
        self.host.calls.iter().filter(|c| **c == call).count()
    }

    pub(super) fn assert_untouched(&self) {
        assert_eq!(self.states(), [State::Running; 3]);
        assert_eq!(self.count(HostCall::Load), self.count(HostCall::Unload));
    }
}
