//! A VMM whose process ends after a message.
//!
//! The VMM's work is done by a thread of the test, and its messages pass through a separate
//! process, which can be killed. That thread is not notified of the process's end: the VMM stays
//! paused for good, as one that is gone would.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::world::{LONG, Running};
use crate::deadline::Deadline;
use crate::member::{Channel, Heard};

/// The message at which the process ends, and how: "saved killed". One that "swallows" it is killed
/// before the message is passed on.
const ENDS: &str = "FDBOX_TEST_ENDS";

fn pass(from: &mut Channel, to: &mut Channel, change: impl FnOnce(&str, &mut Value)) -> String {
    let deadline = Deadline::within(LONG);
    let Heard { mut message, fds } = from.receive::<Value>(deadline).unwrap();
    let verb = message.as_object().unwrap().keys().next().unwrap().clone();
    change(&verb, &mut message);
    let fds: Vec<_> = fds.iter().map(|(name, fd)| (&**name, fd.as_fd())).collect();
    to.send(&message, &fds, deadline).unwrap();
    verb
}

fn kill_this() {
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
}

/// The process, as a child of a test: its standard input is the coordinator, its standard
/// error the thread.
#[test]
fn child() {
    let Ok(ends) = std::env::var(ENDS) else {
        return;
    };
    let (last, how) = ends.split_once(' ').unwrap();
    let socket = |fd: OwnedFd| UnixStream::from(fd);
    let coordinator = socket(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let thread = socket(std::io::stderr().as_fd().try_clone_to_owned().unwrap());
    let (closes, hears) = (
        coordinator.try_clone().unwrap(),
        thread.try_clone().unwrap(),
    );
    let (mut coordinator, mut thread) = (Channel::new(coordinator), Channel::new(thread));
    let this = std::process::id();
    let swallow = |verb: &str| {
        if how == "swallows" && verb == last {
            kill_this();
        }
    };
    loop {
        pass(&mut coordinator, &mut thread, |verb, _| swallow(verb));
        let verb = loop {
            let verb = pass(&mut thread, &mut coordinator, |verb, message| {
                swallow(verb);
                if let Some(joined) = message.get_mut("joined") {
                    joined["pid"] = json!(this);
                }
            });
            if verb != "event" {
                break verb;
            }
        };
        if verb != last {
            continue;
        }
        if how == "killed" {
            kill_this();
        }
        for socket in [&closes, &hears] {
            socket.shutdown(std::net::Shutdown::Both).unwrap();
        }
        loop {
            std::thread::park();
        }
    }
}

/// A VMM whose process ends after a message.
pub(super) struct Vmm {
    pub(super) old: Running,
    pub(super) process: Child,
    /// Keeps the thread's connection open when the process ends.
    _kept: UnixStream,
}

impl Vmm {
    pub(super) fn new((old, thread): (Running, UnixStream), ends: &str) -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let kept = thread.try_clone().unwrap();
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "coordinator::tests::mortal::child"]);
        test.arg("--nocapture").env(ENDS, ends);
        test.stdin(Stdio::from(OwnedFd::from(theirs)));
        test.stderr(Stdio::from(OwnedFd::from(thread)));
        let process = test.stdout(Stdio::null()).spawn().unwrap();
        let vmm = Self {
            old,
            process,
            _kept: kept,
        };
        (vmm, ours)
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }
}
