//! Talking to another process, and to one that is none of ours.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm_fdbox::BoxName;
use vmm_fdbox::update::{CancelFlag, Host};

use super::ask::ask;
use super::*;
use crate::devices::console::{Console, ConsoleSource};
use crate::guest::state;
use crate::service::estate::{Estate, fd};
use crate::socket::Title;
use crate::spec::ConsoleSpec;

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("binary");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn asked(binary: &Path) -> Vec<String> {
    let found = ask(binary, &state::description(&[]), Duration::from_millis(500));
    assert!(found.iter().all(Finding::is_blocker));
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn packets_and_descriptors_arrive_whole() {
    let (ours, theirs) = Link::pair().unwrap();
    let theirs = Link::from_fd(theirs);
    let (mut near, far) = UnixStream::pair().unwrap();
    let order = Order::Go {
        fds: vec![fd::CONSOLE_CLIENT.into()],
    };
    ours.send(&order, &[far.as_fd()]).unwrap();
    ours.send(&Order::Commit, &[]).unwrap();
    drop(far);
    let (heard, mut fds) = theirs.receive::<Order>(None).unwrap();
    assert_eq!(heard, order);
    let mut far = UnixStream::from(fds.remove(0));
    near.write_all(b"x").unwrap();
    assert_eq!(far.read(&mut [0; 2]).unwrap(), 1);
    assert_eq!(theirs.receive::<Order>(None).unwrap().0, Order::Commit);
    let silent = theirs.receive::<Order>(Some(Duration::from_millis(20)));
    assert!(matches!(silent, Err(LinkError::Timeout(_))));
    drop(ours);
    let gone = theirs.receive::<Order>(Some(Duration::from_secs(10)));
    assert!(matches!(gone, Err(LinkError::Gone)));
}

/// What version 1 says, from the first release on.
const GOLDEN_V1: &str = include_str!("golden-v1.jsonl");

#[test]
fn what_version_1_says_is_understood() {
    for (at, line) in GOLDEN_V1.lines().enumerate() {
        let again = if at < 5 {
            serde_json::from_str::<Order>(line).map(|order| serde_json::to_value(order).unwrap())
        } else {
            serde_json::from_str::<Word>(line).map(|word| serde_json::to_value(word).unwrap())
        };
        let said: Value = serde_json::from_str(line).unwrap();
        assert_eq!(again.unwrap(), said);
    }
    // A binary of version 1 is asked about state in this form.
    let described = include_str!("../../guest/state/description-v1.json");
    let described: vmm_fdbox::frame::Description = serde_json::from_str(described).unwrap();
    assert!(described.check(&state::KNOWN).is_empty());
}

#[test]
fn what_a_newer_vmm_adds_is_ignored() {
    let said = r#"{"say":"running","report":{},"text":"","mood":"fine"}"#;
    assert!(serde_json::from_str::<Word>(said).is_ok());
    assert!(serde_json::from_str::<Word>(r#"{"say":"whatever"}"#).is_err());
}

#[test]
fn a_binary_that_reads_the_state_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let answer = r#"{"program":"x 1","handover":1,"findings":[]}"#;
    let path = script(dir.path(), &format!("cat >&2; echo '{answer}'"));
    assert_eq!(asked(&path), Vec::<String>::new());
}

#[test]
fn what_a_binary_finds_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let findings = serde_json::to_string(&[Finding::blocker("Section 'npu'", "no", "none")]);
    let answer = format!(
        r#"{{"program":"x 1","handover":1,"findings":{}}}"#,
        findings.unwrap()
    );
    let path = script(dir.path(), &format!("cat <<E\n{answer}\nE\nexit 10"));
    assert_eq!(asked(&path), ["Section 'npu': no: none"]);
}

#[test]
fn a_binary_of_no_use_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let not_executable = dir.path().join("file");
    fs::write(&not_executable, "x").unwrap();
    let cases = [
        (missing, "No such file"),
        (not_executable, "Permission denied"),
        (script(dir.path(), "exit 3"), "no answer that makes sense"),
    ];
    for (path, reason) in cases {
        let found = asked(&path);
        assert!(found[0].contains(reason), "{found:?}");
    }
    let found = asked(&script(dir.path(), "exec sleep 60"));
    assert!(found[0].contains("does not answer within"), "{found:?}");
    let answer = r#"{"program":"x 1","handover":7,"findings":[]}"#;
    let found = asked(&script(dir.path(), &format!("echo '{answer}'")));
    assert!(found[0].contains("speaks version 7"), "{found:?}");
}

fn estate() -> Estate {
    let (spec, title) = (ConsoleSpec::File("/dev/null".into()), Title::new(true));
    let console = std::sync::Arc::new(Console::open(&spec).unwrap());
    let source = ConsoleSource::open(&spec, &title).unwrap();
    Estate::new(&spec, &console, &source, None, &title).unwrap()
}

/// Why a successor that runs `text` does not get ready.
fn load_failure(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let heir = Heir {
        binary: script(dir.path(), text),
        limit: Duration::from_millis(500),
        fail_at: None,
    };
    let estate = estate();
    let machine = state::sample::guest_v1().machine;
    let name = BoxName::new("vm0").unwrap();
    let mut successor = Successor::new(heir, name, &estate, machine, 2, CancelFlag::new());
    successor.load().unwrap_err().to_string()
}

#[test]
fn a_successor_that_does_not_get_ready_is_ended_and_explained() {
    let exited = load_failure("exit 3");
    assert!(exited.contains("exited with status 3"), "{exited}");
    let crashed = load_failure("kill -SEGV $$");
    assert!(crashed.contains("killed by signal 11"), "{crashed}");
    let hung = load_failure("exec sleep 60");
    assert!(hung.contains("no answer within 0.5 s"), "{hung}");
}

#[test]
fn sockets_are_nobodys_until_the_guest_runs_and_then_one_processs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let spec = ConsoleSpec::Socket(path.clone());
    let old = ConsoleSource::open(&spec, &Title::new(true)).unwrap();
    let title = Title::new(false);
    let listener: Option<OwnedFd> = old.listener();
    let new = ConsoleSource::adopt(&spec, listener, None, &title).unwrap();
    drop(new);
    assert!(path.exists());
    let new = ConsoleSource::adopt(&spec, old.listener(), None, &title).unwrap();
    title.set(true);
    drop(new);
    assert!(!path.exists());
}
