//! Another process takes the guest over, or does not: this program again, as the new VMM.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::devices::console::{Console, ConsoleSource};
use crate::service::estate::Estate;
use crate::socket::Title;
use crate::spec::ConsoleSpec;
use crate::update::handover::{Heir, Link, Order as Said, Running, Successor, Word};

/// What tells the peer what to do.
const PEER: &str = "VMM_EXAMPLE_TEST_PEER";
/// What a peer that waits waits at.
const FIFO: &str = "VMM_EXAMPLE_TEST_FIFO";

fn hang() -> ! {
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

/// Not a test: the new VMM of the tests below, which ends or hangs as it is told.
#[test]
#[ignore = "run by other tests, as a process of its own"]
fn peer() {
    let Ok(play) = env::var(PEER) else { return };
    let link = Link::from_stdin().unwrap();
    let hear = || link.receive::<Said>(None).unwrap();
    assert!(matches!(hear(), (Said::Hello(hello), _) if hello.vcpus == 2));
    link.send(&Word::Ready, &[]).unwrap();
    assert_eq!(hear().0, Said::Prebuild);
    match play.as_str() {
        "crash-early" => std::process::abort(),
        "hang-early" => hang(),
        _ => link.send(&Word::Prebuilt, &[]).unwrap(),
    }
    assert!(matches!(hear().0, Said::Go { .. }));
    match play.as_str() {
        "crash" => std::process::abort(),
        "hang" => hang(),
        "wait" => {
            // Until somebody opens it too.
            fs::read(env::var_os(FIFO).unwrap()).unwrap();
            link.send(&Word::Restored, &[]).unwrap();
        }
        "refuse" => link
            .send(
                &Word::Failed {
                    message: "a refusal".into(),
                },
                &[],
            )
            .unwrap(),
        _ => link.send(&Word::Restored, &[]).unwrap(),
    }
    assert_eq!(hear().0, Said::Commit);
    if play == "crash-late" {
        std::process::abort();
    }
    let running = Running {
        report: json!({"result": "done"}),
        text: "It runs".into(),
    };
    link.send(&Word::Running(running), &[]).unwrap();
}

/// This program as a VMM that does `play`.
fn binary(dir: &TempDir, play: &str) -> Heir {
    let this = env::current_exe().unwrap();
    let verdict = r#"{"program":"peer 1","handover":1,"findings":[]}"#;
    let test = "update::tests::successor::peer";
    let script = format!(
        "#!/bin/sh\n[ $1 = check-state ] && {{ cat >/dev/null; echo '{verdict}'; exit 0; }}\n\
         {FIFO}={} {PEER}={play} exec '{}' --exact {test} --ignored >/dev/null 2>&1\n",
        dir.path().join("fifo").display(),
        this.display()
    );
    let path = dir.path().join("vmm");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Heir {
        binary: path,
        limit: Duration::from_secs(if play.starts_with("hang") { 2 } else { 20 }),
        fail_at: None,
    }
}

struct Ended {
    end: UpdateEnd,
    calls: Vec<&'static str>,
    store: FakeStore,
}

fn hand_over_to(play: &str) -> Ended {
    hand_over_in(&tempfile::tempdir().unwrap(), play, an_order())
}

fn hand_over_in(dir: &TempDir, play: &str, order: Order) -> Ended {
    let (spec, title) = (ConsoleSpec::File("/dev/null".into()), Title::new(true));
    let console = Arc::new(Console::open(&spec).unwrap());
    let source = ConsoleSource::open(&spec, &title).unwrap();
    let estate = Estate::new(&spec, &console, &source, None, &title).unwrap();
    let (store, machine) = (FakeStore::new(), FakeMachine::default());
    let mut host = Successor::new(
        binary(dir, play),
        name(),
        &estate,
        guest_v1().machine,
        2,
        order.plan.cancel.clone(),
    );
    let end = drive(&store, &mut host, &machine, order, &mut |_| {});
    let end = match host.running() {
        Some(running) => UpdateEnd::done(running.report.clone(), running.text.clone()),
        None => end,
    };
    let calls = machine.calls.borrow().clone();
    Ended { end, calls, store }
}

#[test]
fn a_new_vmm_that_runs_the_guest_reports_for_the_update() {
    let Ended { end, calls, store } = hand_over_to("play-along");
    assert_eq!((end.result, end.exit_status), (UpdateResult::Done, 0));
    assert_eq!(end.report.unwrap()["result"], "done");
    assert_eq!(calls, ["park", "save"]);
    let (sealed, _) = store.content(&name()).unwrap();
    assert!(!sealed);
}

#[test]
fn a_new_vmm_that_fails_early_does_not_stop_the_guest() {
    for (play, told) in [
        ("crash-early", "killed by signal 6"),
        ("hang-early", "no answer within 2 s"),
    ] {
        let Ended { end, calls, store } = hand_over_to(play);
        assert_eq!(end.exit_status, 11, "{end:?}");
        assert!(end.message.contains(told), "{end:?}");
        assert!(calls.is_empty() && end.paused_ns.is_none(), "{calls:?}");
        assert_eq!(store.content(&name()), None);
    }
}

#[test]
fn a_new_vmm_that_fails_in_the_blackout_leaves_the_guest_here() {
    for (play, told) in [
        ("crash", "killed by signal 6"),
        ("hang", "no answer within 2 s"),
        ("refuse", "a refusal"),
        // The state is in the box: it did not get to take the guest.
        ("crash-late", "killed by signal 6"),
    ] {
        let Ended { end, calls, store } = hand_over_to(play);
        assert_eq!(end.exit_status, 11, "{end:?}");
        assert_eq!(end.failed_step.as_deref(), Some("jump"));
        assert!(end.message.contains(told), "{end:?}");
        assert_eq!(calls, ["park", "save", "run on"]);
        assert_eq!(store.content(&name()), None);
    }
}

#[test]
fn a_cancel_while_the_new_vmm_restores_leaves_the_guest_here() {
    let dir = tempfile::tempdir().unwrap();
    let (order, fifo) = (an_order(), dir.path().join("fifo"));
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    let cancel = order.plan.cancel.clone();
    let operator = thread::spawn(move || {
        // The new VMM has been told to go when it opens the other end.
        let end = fs::File::create(fifo).unwrap();
        cancel.cancel();
        drop(end);
    });
    let Ended { end, calls, store } = hand_over_in(&dir, "wait", order);
    operator.join().unwrap();
    assert_eq!(end.exit_status, 11, "{end:?}");
    assert_eq!(end.failed_step.as_deref(), Some("jump"));
    assert!(end.message.contains("Cancelled"), "{end:?}");
    assert_eq!(calls, ["park", "save", "run on"]);
    assert_eq!(store.content(&name()), None);
}
