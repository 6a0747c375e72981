//! A keeper in a process of its own, and an update in which it, or the guest's VMM, is killed.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::mortal::Vmm;
use super::new_vmm::{NewVmm, start_new_vmm};
use super::world::{At, LONG, Running, Script, box_name, fd_name, join, limits, start_old_vmm};
use crate::Control;
use crate::coordinator::{Boxes, Handover, RemoteLeaving, WholeGuest, WithBoxes};
use crate::deadline::Deadline;
use crate::keeper::Keeper;
use crate::member::{serve_arriving, serve_leaving};
use crate::statefd::SavedState;
use crate::store::BoxStore;
use crate::update::{
    Destination, ExitStatus, Fleet, FleetOutcome, FleetPlan, Host, PartyError, SameHost,
};

const KEEPS: &str = "FDBOX_TEST_KEEPS";

/// The process, as a child of the tests below: its standard input is the socket to listen on.
#[test]
fn child() {
    if std::env::var_os(KEEPS).is_some() {
        let keeper = Keeper::holder().unwrap();
        keeper.serve(std::io::stdin().as_fd()).unwrap();
    }
}

struct Kept {
    keeper: Child,
    control: Arc<Control>,
}

impl Kept {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keeper");
        let listener = Keeper::listen(&path).unwrap();
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "coordinator::tests::keeper::child"]);
        test.env(KEEPS, "1").stdin(listener).stdout(Stdio::null());
        let keeper = test.spawn().unwrap();
        drop(test);
        let control = Arc::new(Control::connect(&path).unwrap());
        Self { keeper, control }
    }

    fn killed_at(&self, at: At) -> Script {
        Script {
            kills: Some((at, Pid::from_child(&self.keeper))),
            ..Script::default()
        }
    }

    /// A guest whose VMM follows this script.
    fn guest(&self, script: Script, to: Destination) -> (Running, RemoteLeaving<Arc<Control>>) {
        let (old, socket) = start_old_vmm(script, Vec::new(), serve_leaving);
        (old, self.leaving(socket, to))
    }

    fn leaving(&self, socket: UnixStream, to: Destination) -> RemoteLeaving<Arc<Control>> {
        let join = join(&self.control, box_name(), to, limits(false));
        let leaving = RemoteLeaving::new("vm0", Ok(socket), Arc::clone(&self.control), join);
        leaving.with_limits(limits(false))
    }

    /// Sets the guest down in its box.
    fn set_aside(&self, script: Script, host: impl Host) -> (FleetOutcome, Running) {
        let (old, leaving) = self.guest(script, Destination::ThisKernel);
        (self.update(leaving, host), old)
    }

    fn update(&self, leaving: RemoteLeaving<Arc<Control>>, host: impl Host) -> FleetOutcome {
        let boxes = &self.control;
        let host = WithBoxes { host, boxes };
        Fleet::new(host, vec![leaving], FleetPlan::default()).run()
    }

    /// Hands the guest over to another VMM, and returns whether that runs it.
    fn hand_over(&self, old: Script, new: Script) -> (FleetOutcome, Running, bool) {
        let (old, leaving) = self.guest(old, Destination::Successor);
        let vmm = NewVmm::new(new);
        let runs = Arc::clone(&vmm.running);
        let mut vmm = Some(vmm);
        let start = move || start_new_vmm(vmm.take().unwrap(), serve_arriving);
        let handover = Handover::new(leaving, Box::new(start), LONG);
        let host = WithBoxes {
            host: SameHost,
            boxes: &self.control,
        };
        let outcome = Fleet::new(host, vec![handover], FleetPlan::default()).run();
        let runs = *runs.lock().unwrap();
        (outcome, old, runs)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        self.keeper.wait().unwrap();
    }
}

#[track_caller]
fn assert_goes_on(outcome: &FleetOutcome, old: &Running) {
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome:?}");
    let text = format!("{outcome:?}");
    assert!(text.contains("the keeper is gone"), "{text}");
    assert!(old.runs());
}

#[test]
fn killed_before_the_jump_it_takes_no_guest_along() {
    for at in [At::TakeFds, At::Quiesce, At::Save] {
        let kept = Kept::new();
        let (outcome, old) = kept.set_aside(kept.killed_at(at), SameHost);
        assert_goes_on(&outcome, &old);
        let kept = Kept::new();
        let (outcome, old, runs) = kept.hand_over(kept.killed_at(at), Script::default());
        assert_goes_on(&outcome, &old);
        assert!(!runs, "{at:?}");
    }
}

/// A host during whose jump the keeper is killed.
struct Kills<'a>(&'a Kept);

impl Host for Kills<'_> {
    fn leaves_kernel(&self) -> bool {
        false
    }

    fn jump(&mut self, _: Deadline) -> Result<(), PartyError> {
        kill_process(Pid::from_child(&self.0.keeper), Signal::KILL)?;
        while self.0.control.check().is_ok() {
            thread::yield_now();
        }
        Ok(())
    }
}

#[test]
fn a_vmm_whose_box_is_gone_does_not_leave_its_guest() {
    let kept = Kept::new();
    let (outcome, old) = kept.set_aside(Script::default(), Kills(&kept));
    assert_eq!(outcome.exit_status(), ExitStatus::RolledBack, "{outcome:?}");
    let stopped = outcome.members[0].stopped.as_ref().unwrap();
    assert!(stopped.message.contains("the box is gone"), "{stopped:?}");
    assert!(old.runs());
}

#[test]
fn killed_before_the_new_vmm_took_the_guest_it_leaves_it_in_the_old_one() {
    let kept = Kept::new();
    let (outcome, old, runs) = kept.hand_over(Script::default(), kept.killed_at(At::Restore));
    assert_goes_on(&outcome, &old);
    assert!(!runs);
}

#[test]
fn killed_when_the_new_vmm_has_the_guest_it_is_not_missed() {
    let kept = Kept::new();
    let (outcome, old, runs) = kept.hand_over(Script::default(), kept.killed_at(At::Run));
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
    assert!(runs && !old.runs());
}

#[test]
fn a_vmm_that_is_killed_before_it_has_written_the_state_leaves_memory_and_no_guest() {
    let kept = Kept::new();
    let old = start_old_vmm(Script::default(), Vec::new(), serve_leaving);
    let (_vmm, socket) = Vmm::new(old, "prepared killed");
    let outcome = kept.update(kept.leaving(socket, Destination::ThisKernel), SameHost);
    assert_eq!(outcome.exit_status(), ExitStatus::GuestLost, "{outcome:?}");
    let found = kept.control.find_whole_guest(&box_name()).unwrap();
    assert!(matches!(found, WholeGuest::None), "{found:?}");
    let left = kept.control.open_box(&box_name()).unwrap();
    let open = left.into_sealed().unwrap().unseal().unwrap();
    let state = open.get(&crate::update::state_fd_name()).unwrap();
    let error = SavedState::read(state).unwrap_err();
    assert!(
        error.to_string().starts_with("VM state is empty"),
        "{error}"
    );
    open.get(&fd_name("ram")).unwrap();
}
