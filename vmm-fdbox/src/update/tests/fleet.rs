//! Three guests in one update: every point of failure, under both policies.

use std::sync::{Arc, Mutex};

use crate::fake::{FakeHost, HostCall};
use crate::finding::Finding;
use crate::update::{
    CancelFlag, ExitStatus, Fleet, FleetEvent, FleetOutcome, FleetPlan, Member, NotReady, Step,
    Stopped,
};

/// What a member is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Preflight,
    Prepare,
    SetDown,
    Pause,
    RollBack,
    HandOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Prepared,
    Down,
    Paused,
    HandedOver,
}

/// A guest in memory. It undoes all by itself when it fails, as the contract says.
struct Guest {
    name: &'static str,
    fails_at: Option<Call>,
    also_fails_at: Option<Call>,
    cancels: bool,
    cancel_asked: bool,
    state: Arc<Mutex<State>>,
    /// Of every guest.
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

    fn preflight(&mut self) -> Result<(), Stopped> {
        self.call(Call::Preflight, State::Running)
    }

    fn prepare(&mut self) -> Result<(), Stopped> {
        self.call(Call::Prepare, State::Prepared)
    }

    fn pause(&mut self) -> Result<(), Stopped> {
        self.call(Call::Pause, State::Paused)
    }

    fn set_down(&mut self) -> Result<(), String> {
        // All others run: it costs them nothing.
        assert!(
            !self
                .all
                .iter()
                .any(|state| *state.lock().unwrap() == State::Paused)
        );
        let why = |stopped: Stopped| stopped.message;
        self.call(Call::SetDown, State::Down).map_err(why)
    }

    fn cancel_asked(&mut self) -> bool {
        self.cancel_asked
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
struct World {
    members: Vec<Guest>,
    states: Vec<Arc<Mutex<State>>>,
    calls: Vec<Arc<Mutex<Vec<Call>>>>,
    host: FakeHost,
    plan: FleetPlan,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl World {
    fn new(not_ready: NotReady) -> Self {
        let states: Vec<_> = NAMES.map(|_| Arc::new(Mutex::new(State::Running))).into();
        let calls: Vec<Arc<Mutex<Vec<Call>>>> = NAMES.map(|_| Arc::default()).into();
        let member = |(at, name): (usize, &&'static str)| Guest {
            name,
            fails_at: None,
            also_fails_at: None,
            cancels: false,
            cancel_asked: false,
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

    fn failing(not_ready: NotReady, guest: usize, call: Call) -> Self {
        let mut world = Self::new(not_ready);
        world.members[guest].fails_at = Some(call);
        world
    }

    fn run(&mut self) -> FleetOutcome {
        let members = std::mem::take(&mut self.members);
        Fleet::new(&mut self.host, members, self.plan.clone()).run()
    }

    fn states(&self) -> Vec<State> {
        self.states
            .iter()
            .map(|state| *state.lock().unwrap())
            .collect()
    }

    fn calls(&self, guest: usize) -> Vec<Call> {
        self.calls[guest].lock().unwrap().clone()
    }

    fn count(&self, call: HostCall) -> usize {
        self.host.calls.iter().filter(|c| **c == call).count()
    }

    fn assert_untouched(&self) {
        assert_eq!(self.states(), [State::Running; 3]);
        assert_eq!(self.count(HostCall::Load), self.count(HostCall::Unload));
    }
}

const STEPS: [(Call, Step); 3] = [
    (Call::Preflight, Step::Preflight),
    (Call::Prepare, Step::Seal),
    (Call::Pause, Step::Pause),
];

#[test]
fn all_are_handed_over_by_one_jump() {
    let mut world = World::new(NotReady::Abort);
    let outcome = world.run();
    assert_eq!(outcome.exit_status(), ExitStatus::Done);
    assert_eq!(world.states(), [State::HandedOver; 3]);
    assert_eq!(world.host.calls, [HostCall::Load, HostCall::Jump]);
}

#[test]
fn whoever_is_not_ready_wherever_nobody_is_updated() {
    for (guest, name) in NAMES.into_iter().enumerate() {
        for (call, step) in STEPS {
            let mut world = World::failing(NotReady::Abort, guest, call);
            let outcome = world.run();
            world.assert_untouched();
            assert_eq!(world.count(HostCall::Jump), 0);
            let (failed, message) = outcome.failure.clone().unwrap();
            assert_eq!(failed, step);
            assert!(message.starts_with(name), "{message}");
            let status = match step {
                Step::Preflight => ExitStatus::NothingChanged,
                _ => ExitStatus::RolledBack,
            };
            assert_eq!(outcome.exit_status(), status);
            // Who failed undid it all by itself; each of the others is asked to, once.
            for other in 0..3 {
                let calls = world.calls(other);
                let undone = calls.iter().filter(|call| **call == Call::RollBack).count();
                assert_eq!(undone, usize::from(other != guest), "{calls:?}");
                assert_eq!(outcome.members[other].not_ready, other == guest);
            }
        }
    }
}

#[test]
fn whoever_is_not_ready_is_left_behind_if_the_operator_says_so() {
    for guest in 0..3 {
        for (call, _) in STEPS {
            let mut world = World::failing(NotReady::Leave, guest, call);
            let outcome = world.run();
            assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
            // Who is not ready while the others stand still is not waited for.
            let left_as = match call {
                Call::Pause => State::Running,
                _ => State::Down,
            };
            for (at, state) in world.states().into_iter().enumerate() {
                let left = at == guest;
                let expected = if left { left_as } else { State::HandedOver };
                assert_eq!(state, expected);
                assert_eq!(outcome.members[at].not_ready, left);
            }
            assert!(!world.calls(guest).contains(&Call::RollBack));
            assert_eq!(world.count(HostCall::Jump), 1);
        }
    }
}

#[test]
fn who_was_left_behind_runs_on_when_nobody_leaves() {
    for call in [Call::Preflight, Call::Prepare] {
        let spoil: [fn(&mut World); 5] = [
            |world| world.host.failing = vec![HostCall::Jump],
            |world| world.plan.fail_at = Some(Step::Pause),
            |world| world.plan.fail_at = Some(Step::Jump),
            |world| world.members[2].cancel_asked = true,
            |world| {
                for member in &mut world.members[..2] {
                    member.fails_at = Some(Call::Pause);
                }
            },
        ];
        for spoil in spoil {
            let mut world = World::failing(NotReady::Leave, 2, call);
            spoil(&mut world);
            let outcome = world.run();
            assert!(outcome.failure.is_some());
            assert_eq!(world.states(), [State::Running; 3]);
            assert!(world.calls(2).ends_with(&[Call::SetDown, Call::RollBack]));
            let stopped = outcome.members[2].stopped.as_ref().unwrap();
            assert_eq!(stopped.message, "was made to fail; rolled back");
            assert_eq!(stopped.status, ExitStatus::RolledBack);
        }
    }
}

#[test]
fn who_cannot_be_set_down_stops_nobody_and_is_told() {
    for failing in [false, true] {
        let mut world = World::failing(NotReady::Leave, 1, Call::Preflight);
        world.members[1].also_fails_at = failing.then_some(Call::SetDown);
        let mut told = Vec::new();
        let members = std::mem::take(&mut world.members);
        let outcome = Fleet::new(&mut world.host, members, world.plan.clone())
            .observed_by(|event| {
                if let FleetEvent::SetDown(name, done) = event {
                    told.push((name.to_string(), done.is_err()));
                }
            })
            .run();
        assert_eq!(outcome.exit_status(), ExitStatus::Done);
        assert_eq!(told, [("b".to_owned(), failing)]);
    }
}

#[test]
fn in_a_kernel_that_stays_nobody_is_set_down() {
    let mut world = World::failing(NotReady::Leave, 0, Call::Prepare);
    world.host.hands_over = true;
    let outcome = world.run();
    assert_eq!(outcome.exit_status(), ExitStatus::Done);
    assert_eq!(world.states()[0], State::Running);
    assert!(!world.calls(0).contains(&Call::SetDown));
}

#[test]
fn the_last_guest_is_not_left_behind_alone() {
    for (call, step) in STEPS {
        let mut world = World::new(NotReady::Leave);
        for member in &mut world.members {
            member.fails_at = Some(call);
        }
        let outcome = world.run();
        assert_eq!(outcome.failure.as_ref().unwrap().0, step);
        world.assert_untouched();
        assert_eq!(world.count(HostCall::Jump), 0);
    }
}

#[test]
fn a_host_that_fails_rolls_everybody_back() {
    for not_ready in [NotReady::Abort, NotReady::Leave] {
        for (call, step, status) in [
            (HostCall::Load, Step::LoadKernel, ExitStatus::NothingChanged),
            (HostCall::Jump, Step::Jump, ExitStatus::RolledBack),
        ] {
            let mut world = World::new(not_ready);
            world.host.failing = vec![call];
            let outcome = world.run();
            assert_eq!(outcome.failure.as_ref().unwrap().0, step);
            assert_eq!(outcome.exit_status(), status);
            assert_eq!(world.states(), [State::Running; 3]);
            let unloads = usize::from(call == HostCall::Jump);
            assert_eq!(world.count(HostCall::Unload), unloads);
        }
    }
}

#[test]
fn the_fleet_itself_can_fail_before_every_step() {
    for step in [
        Step::Preflight,
        Step::LoadKernel,
        Step::Seal,
        Step::Pause,
        Step::Jump,
    ] {
        let mut world = World::new(NotReady::Leave);
        world.plan.fail_at = Some(step);
        let outcome = world.run();
        assert_eq!(outcome.failure.as_ref().unwrap().0, step);
        world.assert_untouched();
        assert_eq!(world.count(HostCall::Jump), 0);
    }
}

#[test]
fn a_blocker_of_the_host_stops_all_and_every_guest_is_asked_anyway() {
    let mut world = World::failing(NotReady::Leave, 1, Call::Preflight);
    world.host.findings = vec![Finding::blocker("kexec", "it is off", "switch it on")];
    let outcome = world.run();
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    assert!(outcome.failure.unwrap().1.contains("switch it on"));
    assert!((0..3).all(|guest| world.calls(guest).contains(&Call::Preflight)));
    assert_eq!(outcome.findings.len(), 1);
    assert!(world.host.calls.is_empty());
}

#[test]
fn a_dry_run_names_who_is_not_ready_and_changes_nothing() {
    let mut world = World::failing(NotReady::Abort, 1, Call::Preflight);
    let members = std::mem::take(&mut world.members);
    let outcome = Fleet::new(&mut world.host, members, world.plan.clone()).dry_run();
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    let not_ready: Vec<bool> = outcome.members.iter().map(|m| m.not_ready).collect();
    assert_eq!(not_ready, [false, true, false]);
    assert!(world.host.calls.is_empty());

    let mut world = World::new(NotReady::Abort);
    let members = std::mem::take(&mut world.members);
    let outcome = Fleet::new(&mut world.host, members, world.plan.clone()).dry_run();
    assert_eq!(outcome.exit_status(), ExitStatus::Done);
    assert!(outcome.members.iter().all(|m| m.stopped.is_none()));
}

#[test]
fn cancelling_is_honoured_after_every_step() {
    for after in [Step::Preflight, Step::LoadKernel, Step::Seal] {
        let mut world = World::new(NotReady::Leave);
        let cancel = CancelFlag::new();
        world.plan.cancel = cancel.clone();
        let members = std::mem::take(&mut world.members);
        let outcome = Fleet::new(&mut world.host, members, world.plan.clone())
            .observed_by(|event| {
                if *event == FleetEvent::Done(after) {
                    cancel.cancel();
                }
            })
            .run();
        assert!(outcome.failure.unwrap().1.contains("Cancelled"));
        world.assert_untouched();
    }
}

#[test]
fn a_cancel_at_one_guest_stops_all_even_if_others_may_be_left() {
    for (call, _) in STEPS {
        let mut world = World::failing(NotReady::Leave, 2, call);
        world.members[2].cancels = true;
        let outcome = world.run();
        assert!(outcome.failure.unwrap().1.contains("Cancelled"));
        world.assert_untouched();
    }
}

#[test]
fn a_cancel_while_all_stand_still_is_honoured_before_the_jump() {
    let mut world = World::new(NotReady::Leave);
    world.members[1].cancel_asked = true;
    let outcome = world.run();
    assert_eq!(outcome.failure.as_ref().unwrap().0, Step::Jump);
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack);
    world.assert_untouched();
    assert_eq!(world.count(HostCall::Jump), 0);
}

#[test]
fn a_lost_guest_is_the_worst_that_is_told() {
    let outcome = |statuses: [ExitStatus; 2]| {
        let member = |status| crate::update::MemberOutcome {
            name: "x".into(),
            stopped: Some(Stopped {
                status,
                ..Stopped::untouched("")
            }),
            not_ready: false,
            findings: Vec::new(),
        };
        FleetOutcome {
            failure: Some((Step::Seal, String::new())),
            members: statuses.map(member).into(),
            findings: Vec::new(),
            problems: Vec::new(),
        }
    };
    let worst = outcome([ExitStatus::GuestLost, ExitStatus::RolledBack]);
    assert_eq!(worst.exit_status(), ExitStatus::GuestLost);
    let none = outcome([ExitStatus::NothingChanged; 2]);
    assert_eq!(none.exit_status(), ExitStatus::NothingChanged);
}

#[test]
fn no_guest_is_an_error() {
    let mut host = FakeHost::default();
    let outcome = Fleet::new(&mut host, Vec::<Guest>::new(), FleetPlan::default()).run();
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    assert!(host.calls.is_empty());
}
