//! A new VMM that is late with the guest itself: between the order to take it and `running` only
//! the box tells who has the guest.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::world::{
    Gate, LONG, Running, SHORT, Script, box_name, fd_name, limits, old_vmm, remote,
};
use crate::coordinator::{Child, Handover};
use crate::deadline::Deadline;
use crate::fake::FakeStore;
use crate::member::{ArrivingReply, ArrivingRequest, Channel, Greeting, Left};
use crate::update::{
    Destination, ExitStatus, Fleet, FleetOutcome, FleetPlan, Member, STATE_FD, SameHost,
};
use crate::{BoxStore, OpenFdBox};

fn say(channel: &mut Channel, word: &ArrivingReply) {
    let deadline = Deadline::within(LONG);
    // The other end is closed only if it has been killed.
    let _ = channel.send(word, &[], deadline);
}

/// Sends the expected messages, up to the order to take the guest.
fn follow(channel: &mut Channel) {
    let deadline = Deadline::within(LONG);
    let Greeting::Hello { version } = channel.receive(deadline).unwrap().message;
    channel
        .send(&Greeting::Hello { version }, &[], deadline)
        .unwrap();
    loop {
        let word = match channel.receive(deadline).unwrap().message {
            ArrivingRequest::Arrive(_) => ArrivingReply::Ready { position: None },
            ArrivingRequest::Prebuild { .. } => ArrivingReply::Prebuilt {},
            ArrivingRequest::Restore { commit, .. } => {
                assert!(commit, "a guest waits for a word in between");
                return;
            }
            ArrivingRequest::Commit {} => panic!("it was told already"),
            ArrivingRequest::Adopt { .. } => panic!("nothing is to adopt"),
        };
        say(channel, &word);
    }
}

/// A new VMM that was told to take the guest.
struct Puppet {
    channel: Channel,
    store: FakeStore,
    old: Arc<Mutex<Option<Running>>>,
    /// The other end of its process's input.
    input: UnixStream,
}

impl Puppet {
    /// Takes the guest.
    fn take(&self) {
        let open = self.store.open_box(&box_name()).unwrap();
        drop(open.into_open().unwrap().get(&fd_name(STATE_FD)).unwrap());
    }

    /// Waits until the old VMM was asked for the guest, and did not get it.
    fn wait_for_old(&self) {
        let is_over = || {
            let old = self.old.lock().unwrap();
            old.as_ref().is_some_and(|old| old.thread.is_finished())
        };
        while !is_over() {
            thread::yield_now();
        }
    }

    fn is_alive(&self) -> bool {
        self.input.set_nonblocking(true).unwrap();
        let read = (&self.input).read(&mut [0]);
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// Runs the update with a new VMM that does `act` when told to take the guest; returns its outcome
/// and the old VMM.
fn hand_over(act: impl FnOnce(&mut Puppet) + Send + 'static) -> (FleetOutcome, Running) {
    let store = FakeStore::new();
    let (old, socket) = old_vmm(&store, Script::default());
    let old = Arc::new(Mutex::new(Some(old)));
    let leaving = remote(&store, socket, Destination::Successor, limits(false));
    let (seen, mut act) = (Arc::clone(&old), Some(act));
    let start = move || {
        let mut cat = Command::new("/bin/cat");
        cat.stdout(Stdio::null()).stderr(Stdio::null());
        let (child, input) = Child::spawn(cat)?;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (store, seen, act) = (store.clone(), Arc::clone(&seen), act.take().unwrap());
        thread::spawn(move || {
            let mut channel = Channel::new(theirs);
            follow(&mut channel);
            act(&mut Puppet {
                channel,
                store,
                old: seen,
                input,
            });
        });
        Ok((child, ours))
    };
    let handover = Handover::new(leaving, Box::new(start), 10 * SHORT);
    let outcome = Fleet::new(SameHost, vec![handover], FleetPlan::default()).run();
    let old = old.lock().unwrap().take().unwrap();
    (outcome, old)
}

#[test]
fn one_that_has_not_taken_it_is_killed_and_the_guest_runs_on_in_its_old_vmm() {
    let gate = Gate::default();
    let hangs = gate.clone();
    let (outcome, old) = hand_over(move |_| hangs.wait());
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome:?}");
    let stopped = outcome.members[0].stopped.as_ref().unwrap();
    let why = stopped.error.as_ref().unwrap();
    assert!(why.contains("gave no answer within 1 s"), "{stopped:?}");
    assert!(old.runs());
    gate.open();
    assert!(matches!(old.thread.join().unwrap(), Left::Here));
}

#[test]
fn one_that_has_taken_it_and_is_late_lives_and_is_not_said_to_have_lost_it() {
    let alive = Arc::new(AtomicBool::new(false));
    let is_alive = Arc::clone(&alive);
    let (outcome, old) = hand_over(move |puppet| {
        puppet.take();
        puppet.wait_for_old();
        is_alive.store(puppet.is_alive(), Ordering::SeqCst);
        let report = Value::Null;
        say(&mut puppet.channel, &ArrivingReply::Running {});
        say(&mut puppet.channel, &ArrivingReply::Report { report });
    });
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
    assert!(
        alive.load(Ordering::SeqCst),
        "it was killed, with the guest"
    );
    assert!(!old.runs());
    assert!(matches!(old.thread.join().unwrap(), Left::Lost(_)));
}

#[test]
fn one_that_has_taken_it_and_died_has_lost_it() {
    let (outcome, old) = hand_over(|puppet| puppet.take());
    assert_eq!(outcome.exit_status(), ExitStatus::GuestLost, "{outcome:?}");
    let stopped = outcome.members[0].stopped.as_ref().unwrap();
    assert!(
        stopped.message.contains("the new VMM had it"),
        "{stopped:?}"
    );
    assert!(!old.runs());
    assert!(matches!(old.thread.join().unwrap(), Left::Lost(_)));
}

#[test]
fn a_guest_that_nobody_has_taken_is_not_left_whatever_the_coordinator_says() {
    for takes_back in [false, true] {
        let store = FakeStore::new();
        let (old, socket) = old_vmm(&store, Script::default());
        let mut leaving = remote(&store, socket, Destination::Successor, limits(false));
        leaving.preflight().unwrap();
        leaving.fill().unwrap();
        leaving.stop().unwrap();
        if takes_back {
            leaving.take_back().unwrap();
        }
        let stopped = leaving.let_go().unwrap_err();
        assert!(stopped.message.contains("Nobody has taken"), "{stopped:?}");
        assert_eq!(leaving.undo().status, ExitStatus::RolledBack);
        drop(leaving);
        assert!(old.runs());
        assert!(matches!(old.thread.join().unwrap(), Left::Here));
    }
}
