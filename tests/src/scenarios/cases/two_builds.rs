//! Two builds of the VMM, one of which has another version and writes a section of the state that
//! the other does not know; and the state that a failed or killed resume leaves for the next one.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::guest::{port, update_a};
use super::reports::{healthy, same_guest};
use super::upgrade::boot_spec;
use super::{Cx, Scenario, privileges};
use crate::check::equal;
use crate::fleet::{Member, read_report, resume_all};
use crate::guest::{END_LIMIT, Ended, Guest, Spec, VMM};
use crate::{fdbox, uapi};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "upgrade/two-builds",
    about: "to a newer VMM and back, then a kexec after which the newer one fails, one is killed, and the older one resumes",
    host: HostKind::GuestTwoBuilds,
    stages: &[before, after],
}];

const LATER: &str = "/bin/vmm-example-later";
/// The section that only the later build knows.
const SECTION: &str = "later-build";
const NAME: &str = "two-builds";
/// Records what a binary was asked, in the directory of the user that it runs as.
const ASKED: &str = "/run/two-builds/asked";
/// The directory of the sockets of `resume --all`, and here of its reports, too.
const RUN_DIR: &str = "/run/vmm-example";

fn spec() -> Spec {
    Spec {
        name: NAME,
        ram: "guest_memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: None,
    }
}

fn version(binary: &str) -> Result<String> {
    let output = Command::new(binary).arg("--version").output();
    let output = output.with_context(|| format!("Run {binary}"))?;
    Ok(String::from_utf8(output.stdout)?)
}

fn before(cx: &Cx<'_>) -> Result<()> {
    ensure!(version(VMM)? != version(LATER)?, "Both are one build");
    let mut guest = boot_spec(spec())?;
    let first = guest.report()?;
    // Not dropped, because dropping a runner ends its process.
    let mut runners = Vec::new();
    for binary in [LATER, VMM, LATER] {
        let asked = listener(&guest, binary)?;
        guest.upgrade(&asked, &[])?.expect(0)?;
        let runner = guest.runner()?;
        let program = fs::read_link(format!("/proc/{}/exe", runner.pid()))?;
        equal("The program", program.as_path(), Path::new(binary))?;
        equal("The section", asked_about_section()?, binary == VMM)?;
        runners.push(runner);
        same_guest(&first, &guest.report()?)?;
    }
    update_a(cx, guest)
}

/// A `--binary` argument that records what the binary is asked.
fn listener(guest: &Guest, binary: &str) -> Result<String> {
    let check = format!("[ \"$1\" = check-state ] && tee {ASKED} | {binary} \"$@\" && exit");
    guest.binary(
        &format!("#!/bin/sh\n{check}\nexec {binary} \"$@\"\n"),
        0o755,
    )
}

/// Whether the binary was asked about a state with the section that only the later build knows.
fn asked_about_section() -> Result<bool> {
    let asked: Value = serde_json::from_slice(&fs::read(ASKED)?)?;
    let sections = asked["sections"].as_array().context("The sections")?;
    let section = sections.iter().find(|section| section["name"] == SECTION);
    if let Some(section) = section {
        equal("It is required", &section["required"], &json!(false))?;
    }
    Ok(section.is_some())
}

fn after(cx: &Cx<'_>) -> Result<()> {
    let mut newer = Command::new(LATER);
    newer.args(["resume", "--box", NAME, "--fail-at", "restore"]);
    newer.arg("--api-socket").arg(spec().api());
    Ended::of(&mut newer)?.expect(10)?;
    is_in_state(uapi::STATE_SEALED)?;
    kill_in_the_middle()?;
    is_in_state(uapi::STATE_OPEN)?;
    // The older build, which accepts a box that no process uses, sealed or not.
    resume_all(RUN_DIR, &[])?.expect(0)?;
    let mut guest = Member::attach(NAME, &port()?)?;
    guest.wait_for_beat()?;
    let report = guest.report()?;
    healthy(&report)?;
    cx.value("witness", report)?;
    cx.value("resume", read_report(RUN_DIR, NAME)?)?;
    cx.value("vmm", privileges::vmm_status(&guest.api())?)?;
    equal("The box", fdbox::listed(NAME)?.is_some(), false)?;
    guest.power_off()
}

fn is_in_state(state: u32) -> Result<()> {
    let listed = fdbox::listed(NAME)?.context("The box is gone")?;
    equal("The box's state", listed.state, state)
}

/// Kills a resume that has opened the box and read its state. As long as it lives, no other process
/// can get the guest.
fn kill_in_the_middle() -> Result<()> {
    let mut resume = Command::new(VMM);
    resume.args(["resume", "--all", "--stop-guest", NAME]);
    let mut coordinator = resume.stdin(Stdio::null()).spawn().context("Run the VMM")?;
    let vmm = stopped_vmm();
    let left_alone = vmm.and_then(|vmm| {
        is_in_state(uapi::STATE_OPEN)?;
        let ended = Ended::of(Command::new(VMM).args(["resume", "--all"]))?;
        ended.expect(0)?;
        let reason = "another process works";
        ensure!(ended.text.contains(reason), "{}", ended.text);
        is_in_state(uapi::STATE_OPEN)?;
        coordinator.kill()?;
        Ok(kill_process(vmm, Signal::KILL)?)
    });
    // It fails only if it is already gone.
    let _ = coordinator.kill();
    coordinator.wait()?;
    left_alone?;
    wait_until("the killed VMM to be gone", || Ok(find_vmm()?.is_none()))
}

/// The guest's VMM, once it is stopped.
fn stopped_vmm() -> Result<Pid> {
    let mut found = None;
    wait_until("a VMM that is stopped", || {
        found = find_vmm()?;
        let Some(pid) = found else { return Ok(false) };
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        Ok(fs::read_to_string(path).is_ok_and(|stat| stat.contains(") T ")))
    })?;
    found.context("A VMM")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + END_LIMIT;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "Waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The process that is going to be the guest's VMM.
fn find_vmm() -> Result<Option<Pid>> {
    let socket = format!("/{NAME}.sock");
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if command.contains("\0member\0") && command.contains(&socket) {
            return Ok(Pid::from_raw(pid));
        }
    }
    Ok(None)
}
