//! The coordinator against three VMMs, over their real API sockets: every step at which a
//! guest can fail, under both policies.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};

use vmm_fdbox::fake::{FakeHost, HostCall};
use vmm_fdbox::update::NotReady;

use super::*;
use crate::service::api::protocol::{GuestStatus, Reply, Request, RunState};
use crate::service::told::{UpdateEnd, UpdateResult};
use crate::spec::MemoryKind;

/// Where a VMM fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It says that it rolled back.
    At(&'static str),
    /// Its process dies.
    Dies(&'static str),
    /// It does not answer, until it finds the connection closed.
    Hangs(&'static str),
    /// Somebody cancels while the guest stands.
    CancelAsked,
}

/// What a VMM was asked to do.
type Asked = Vec<&'static str>;

fn status(name: &str) -> Reply {
    Reply::Status(Box::new(GuestStatus {
        name: name.into(),
        state: RunState::Running,
        pid: 1,
        vcpus: 1,
        ram_kind: MemoryKind::Memfd,
        ram_mib: 64,
        tsc_khz: 0,
        step: None,
        last_update: None,
        blackout: None,
        devices: Vec::new(),
        host_devices: Vec::new(),
    }))
}

fn end(result: UpdateResult, status: ExitStatus) -> Reply {
    Reply::UpdateEnd(UpdateEnd {
        result,
        exit_status: status.code(),
        message: "the end".into(),
        ..UpdateEnd::ready()
    })
}

fn send(stream: &mut UnixStream, reply: &Reply) {
    let line = serde_json::to_string(reply).unwrap();
    // A coordinator that is gone is a test's own business.
    let _ = writeln!(stream, "{line}");
}

/// Plays the VMM of one guest.
fn serve(listener: &UnixListener, name: &str, fault: Option<Fault>) -> Asked {
    let (mut stream, _) = listener.accept().unwrap();
    let reader = BufReader::new(stream.try_clone().unwrap());
    let mut asked = Vec::new();
    for line in reader.lines().map_while(Result::ok) {
        let verb = match serde_json::from_str(&line).unwrap() {
            Request::Status => {
                send(&mut stream, &status(name));
                continue;
            }
            Request::JoinUpdate(_) => "join",
            Request::Prepare => "prepare",
            Request::PauseAndSave => "pause",
            Request::RollBack => "roll back",
            Request::HandOver => "hand over",
            Request::SetDown => "set down",
            other => panic!("{other:?}"),
        };
        asked.push(verb);
        let untouched = end(UpdateResult::NothingChanged, ExitStatus::NothingChanged);
        let rolled_back = end(UpdateResult::RolledBack, ExitStatus::RolledBack);
        let reply = match verb {
            _ if fault == Some(Fault::Dies(verb)) => return asked,
            _ if fault == Some(Fault::Hangs(verb)) => continue,
            "join" if fault == Some(Fault::At(verb)) => untouched,
            _ if fault == Some(Fault::At(verb)) => rolled_back,
            "roll back" if asked.contains(&"prepare") => rolled_back,
            "roll back" => untouched,
            "set down" => Reply::Ok,
            "hand over" => end(UpdateResult::HandedOver, ExitStatus::Done),
            verb => Reply::StepDone { step: verb.into() },
        };
        send(&mut stream, &reply);
        if verb == "pause" && fault == Some(Fault::CancelAsked) {
            send(&mut stream, &Reply::CancelAsked);
        }
        if verb == "hand over" {
            return asked;
        }
    }
    asked
}

struct World {
    dir: tempfile::TempDir,
    vmms: Vec<JoinHandle<Asked>>,
    host: FakeHost,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl World {
    /// Three VMMs, the second of which fails.
    fn new(fault: Option<Fault>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vmm = |(at, name): (usize, &&'static str)| {
            let listener = UnixListener::bind(dir.path().join(format!("{name}.sock"))).unwrap();
            let (name, fault) = (*name, fault.filter(|_| at == 1));
            thread::spawn(move || serve(&listener, name, fault))
        };
        let vmms = NAMES.iter().enumerate().map(vmm).collect();
        Self {
            dir,
            vmms,
            host: FakeHost::default(),
        }
    }

    fn update(&mut self, not_ready: NotReady) -> FleetOutcome {
        let output = Output::new(true);
        let members = NAMES
            .map(|name| {
                let socket = self.dir.path().join(format!("{name}.sock"));
                let mut member = RemoteMember::connect(&socket, &output);
                member.pause_limit = Some(Duration::from_millis(300));
                member
            })
            .into();
        let plan = FleetPlan {
            not_ready,
            ..FleetPlan::default()
        };
        drive(&mut self.host, members, plan, false, &output)
    }

    fn asked(self) -> Vec<Asked> {
        let join = |vmm: JoinHandle<Asked>| vmm.join().unwrap();
        self.vmms.into_iter().map(join).collect()
    }
}

const STEPS: [&str; 3] = ["join", "prepare", "pause"];

#[test]
fn three_guests_are_handed_over_by_one_jump() {
    let mut world = World::new(None);
    let outcome = world.update(NotReady::Abort);
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
    assert_eq!(world.host.calls, [HostCall::Load, HostCall::Jump]);
    let asked = world.asked();
    assert!(
        asked
            .iter()
            .all(|a| *a == ["join", "prepare", "pause", "hand over"])
    );
}

#[test]
fn the_next_kernel_is_asked_about_what_the_guests_are_made_of() {
    for (kind, exit_status) in [
        (vmm_fdbox::Kind::KvmVm, ExitStatus::NothingChanged),
        (vmm_fdbox::Kind::Memfd, ExitStatus::NothingChanged),
        (vmm_fdbox::Kind::VfioPci, ExitStatus::Done),
    ] {
        let mut world = World::new(None);
        world.host.loses = BTreeSet::from([kind]);
        let outcome = world.update(NotReady::Abort);
        assert_eq!(outcome.exit_status(), exit_status, "{kind}: {outcome:?}");
    }
}

#[test]
fn a_guest_that_fails_at_any_step_rolls_the_others_back() {
    for (at, step) in STEPS.into_iter().enumerate() {
        let mut world = World::new(Some(Fault::At(step)));
        let outcome = world.update(NotReady::Abort);
        let status = [
            ExitStatus::NothingChanged,
            ExitStatus::RolledBack,
            ExitStatus::RolledBack,
        ][at];
        assert_eq!(outcome.exit_status(), status, "{outcome:?}");
        assert!(!world.host.calls.contains(&HostCall::Jump));
        let asked = world.asked();
        assert_eq!(asked[1], STEPS[..=at], "who failed is asked no more");
        for other in [&asked[0], &asked[2]] {
            assert_eq!(*other.last().unwrap(), "roll back", "{step}");
        }
    }
}

#[test]
fn a_guest_that_fails_at_any_step_is_left_behind_if_so_told() {
    for step in STEPS {
        let mut world = World::new(Some(Fault::At(step)));
        let outcome = world.update(NotReady::Leave);
        assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
        let left = |member: &vmm_fdbox::update::MemberOutcome| member.not_ready;
        assert_eq!(
            outcome.members.iter().map(left).collect::<Vec<_>>(),
            [false, true, false]
        );
        let asked = world.asked();
        assert_eq!(asked[0].last(), Some(&"hand over"));
        assert!(!asked[1].contains(&"roll back"));
        // There is no time for it while the others stand still.
        assert_eq!(asked[1].last() == Some(&"set down"), step != "pause");
    }
}

#[test]
fn a_guest_that_was_left_behind_runs_on_when_the_jump_fails() {
    let mut world = World::new(Some(Fault::At("prepare")));
    world.host.failing = vec![HostCall::Jump];
    let outcome = world.update(NotReady::Leave);
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome:?}");
    let told = &outcome.members[1].stopped.as_ref().unwrap().message;
    assert_eq!(told, "the end; Runs on");
    assert_eq!(
        world.asked()[1],
        ["join", "prepare", "set down", "roll back"]
    );
}

#[test]
fn a_vmm_that_dies_is_a_lost_guest_and_the_others_run_on() {
    for step in STEPS {
        let mut world = World::new(Some(Fault::Dies(step)));
        let outcome = world.update(NotReady::Abort);
        assert_eq!(outcome.exit_status(), ExitStatus::GuestLost, "{outcome:?}");
        let asked = world.asked();
        assert_eq!(asked[0].last(), Some(&"roll back"));
    }
}

#[test]
fn a_vmm_that_hangs_does_not_keep_the_others_standing() {
    for (not_ready, last, status) in [
        (NotReady::Abort, "roll back", ExitStatus::RolledBack),
        (NotReady::Leave, "hand over", ExitStatus::Done),
    ] {
        let mut world = World::new(Some(Fault::Hangs("pause")));
        let outcome = world.update(not_ready);
        assert_eq!(outcome.exit_status(), status, "{outcome:?}");
        assert!(outcome.members[1].not_ready);
        let asked = world.asked();
        assert_eq!(asked[1].last(), Some(&"pause"));
        assert_eq!(asked[0].last(), Some(&last));
    }
}

#[test]
fn a_jump_that_fails_rolls_every_guest_back() {
    for not_ready in [NotReady::Abort, NotReady::Leave] {
        let mut world = World::new(None);
        world.host.failing = vec![HostCall::Jump];
        let outcome = world.update(not_ready);
        assert_eq!(outcome.exit_status(), ExitStatus::RolledBack);
        assert!(world.host.calls.contains(&HostCall::Unload));
        assert!(world.asked().iter().all(|a| a.last() == Some(&"roll back")));
    }
}

#[test]
fn a_cancel_at_the_last_moment_is_seen_before_the_jump() {
    let mut world = World::new(Some(Fault::CancelAsked));
    // It may still be on its way when the last pause is done: then it is too late.
    let outcome = world.update(NotReady::Leave);
    let cancelled = outcome.exit_status() == ExitStatus::RolledBack;
    assert_eq!(cancelled, !world.host.calls.contains(&HostCall::Jump));
    let last = if cancelled { "roll back" } else { "hand over" };
    assert!(world.asked().iter().all(|a| a.last() == Some(&last)));
}

#[test]
fn a_vmm_that_does_not_answer_is_a_guest_that_is_not_ready() {
    let mut world = World::new(None);
    std::fs::remove_file(world.dir.path().join("b.sock")).unwrap();
    let output = Output::new(true);
    let member = RemoteMember::connect(&world.dir.path().join("b.sock"), &output);
    assert_eq!(member.guest(), "b");
    let members = vec![member];
    let outcome = drive(
        &mut world.host,
        members,
        FleetPlan::default(),
        false,
        &output,
    );
    assert_eq!(outcome.exit_status(), ExitStatus::NothingChanged);
    assert!(outcome.failure.unwrap().1.contains("No VMM answers"));
}

#[test]
fn the_order_gives_each_guest_its_place() {
    let order = ["b".to_owned(), "a".to_owned()];
    let places = NAMES.map(|name| position(&order, name));
    assert_eq!(places, [Some(1), Some(0), Some(2)]);
    assert_eq!(position(&[], "a"), None);
    assert!(check_names(&NAMES, &order).is_ok());
    assert!(check_names(&NAMES, &["d".to_owned()]).is_err());
    assert!(check_names(&["a", "a"], &[]).is_err());
}
