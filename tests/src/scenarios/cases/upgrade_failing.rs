//! Another build of the VMM does not take a guest over: the old one keeps it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::Report;
use serde_json::json;

use super::reports::same_guest;
use super::upgrade::{boot, upgrade};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox;
use crate::guest::{Ended, Guest, VMM};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "upgrade/failures",
        about: "whatever step fails, in the old VMM or the new one, the guest continues in \
                the old one",
        host: HostKind::GuestAlone,
        stages: &[failures],
    },
    &Scenario {
        name: "upgrade/bad-binaries",
        about: "a new VMM that cannot be used is reported, and the guest stays where it is",
        host: HostKind::GuestAlone,
        stages: &[bad_binaries],
    },
];

/// Steps that can fail, and the exit status.
const FAILURES: &[(&str, i32)] = &[
    ("preflight", 10),
    ("load-kernel", 10),
    ("create-box", 10),
    ("put-fds", 10),
    ("prebuild", 11),
    ("pause", 11),
    ("save", 11),
    ("jump", 11),
    ("open", 11),
    ("restore", 11),
];

/// The guest is healthy, in the same VMM, and nothing is left of the attempt.
fn unharmed(guest: &mut Guest, before: &Report, what: &str) -> Result<()> {
    let check = |guest: &mut Guest| {
        let pid = i64::from(guest.pid());
        equal("The VMM", guest.spec.status()?["pid"].as_i64(), Some(pid))?;
        equal("A box", fdbox::listed(guest.spec.name)?.is_some(), false)?;
        guest.wait_for_beat()?;
        same_guest(before, &guest.report()?)
    };
    check(guest).with_context(|| format!("After {what}"))
}

fn failures(_: &Cx<'_>) -> Result<()> {
    let mut guest = boot("failures", "guest_memfd", 128, 1)?;
    let before = guest.report()?;
    for (step, status) in FAILURES {
        guest.upgrade(VMM, &["--fail-at", step])?.expect(*status)?;
        unharmed(&mut guest, &before, step)?;
    }
    // Once the guest runs, nothing is rolled back: it continues, and its box remains.
    let old = guest.runner()?;
    guest.upgrade(VMM, &["--fail-at", "finish"])?.expect(0)?;
    let report = guest.resume_report()?;
    equal("The box is gone", &report["box_deleted"], &json!(false))?;
    let new = guest.runner()?;
    ensure!(new != old, "The VMM is still the old one");
    same_guest(&before, &guest.report()?)?;
    discard(guest.spec.name)?;
    same_guest(&before, &guest.report()?)?;
    // Nothing prevents the next update from succeeding.
    upgrade(&guest)?;
    let runner = guest.runner()?;
    same_guest(&before, &guest.report()?)?;
    guest.power_off_under(&runner)
}

/// `vmm-example discard`, which requires confirmation.
fn discard(name: &str) -> Result<()> {
    let discard = |more: &[&str]| {
        let mut discard = Command::new(VMM);
        Ended::of(discard.args(["discard", "--box", name]).args(more))
    };
    discard(&[])?.expect(1)?;
    equal("The box", fdbox::listed(name)?.is_some(), true)?;
    discard(&["--yes"])?.expect(0)?;
    equal("The box", fdbox::listed(name)?.is_some(), false)
}

fn bad_binaries(_: &Cx<'_>) -> Result<()> {
    let mut guest = boot("bad-binaries", "guest_memfd", 128, 1)?;
    let before = guest.report()?;
    let refuses = "#!/bin/sh\ncat >/dev/null\n\
        echo '{\"program\":\"x\",\"handover\":1,\"findings\":[{\"severity\":\"blocker\",\
        \"subject\":\"Section machine\",\"problem\":\"unknown\",\"remedy\":\"none\"}]}'\nexit 10\n";
    // Binaries that are rejected before anything happens.
    let cases = [
        ("/no/such/file".to_owned(), "No such file"),
        (guest.binary("x", 0o644)?, "Permission denied"),
        ("/bin/busybox".to_owned(), "no valid answer"),
    ];
    for (binary, message) in cases {
        refused(&mut guest, &before, &binary, message, 10)?;
    }
    for (content, message) in [
        // execvp(), which starts it as the guest's user, has a shell run what the kernel cannot.
        ("\u{7f}ELF, of no machine", "no valid answer"),
        (refuses, "Section machine"),
    ] {
        let binary = guest.binary(content, 0o755)?;
        refused(&mut guest, &before, &binary, message, 10)?;
    }
    // One that offers fewer features of a device than the guest uses: simulated by editing the
    // state.
    let offers_less = format!(
        "#!/bin/sh\n[ \"$1\" = check-state ] || exit 1\n\
         busybox sed 's/\"features\":\\[/&21,/' | exec {VMM} \"$@\"\n"
    );
    let binary = guest.binary(&offers_less, 0o755)?;
    let reason = "Device 'virtio-rng0': its guest uses feature 21";
    refused(&mut guest, &before, &binary, reason, 10)?;
    // And those that are not rejected, with the time at which each of them ends or hangs.
    for (script, message, status) in [
        ("exit 3", "exited with status 3", 10),
        ("kill -SEGV $$", "killed by signal 11", 10),
        ("exec sleep 100", "no answer within", 10),
    ] {
        let binary = guest.bad_binary(script)?;
        refused(&mut guest, &before, &binary, message, status)?;
    }
    guest.power_off()
}

fn refused(
    guest: &mut Guest,
    before: &Report,
    binary: &str,
    message: &str,
    status: i32,
) -> Result<()> {
    let ended = guest.upgrade(binary, &["--timeout", "3"])?;
    ended.expect(status)?;
    ensure!(
        ended.text.contains(message),
        "{binary}: not {message:?} but {}",
        ended.text
    );
    unharmed(guest, before, message)
}
