//! Two builds of the VMM, one of which has another version and writes a section of the state that the
//! other does not know, and what a resume that failed or was killed leaves for the next one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::{Value, json};

use super::guest::{healthy, port, same_guest, update_a};
use super::upgrade::boot_spec;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fleet::{Member, read_report, resume_all};
use crate::guest::{Ended, Guest, Spec, VMM};
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
/// Where `resume --all` has sockets, and here its reports, too.
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
    // Not dropped, for a runner ends with what stands for it.
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

/// What to name as binary so that what it is asked is kept.
fn listener(guest: &Guest, binary: &str) -> Result<String> {
    let check = format!("[ \"$1\" = check-state ] && tee /run/asked | {binary} \"$@\" && exit");
    guest.binary(
        &format!("#!/bin/sh\n{check}\nexec {binary} \"$@\"\n"),
        0o755,
    )
}

/// Whether the binary was asked about a state with the section that only the later build knows.
fn asked_about_section() -> Result<bool> {
    let asked: Value = serde_json::from_slice(&fs::read("/run/asked")?)?;
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
    // The older one, which takes up a box that nobody works on, sealed or not.
    resume_all(RUN_DIR, &[])?.expect(0)?;
    let mut guest = Member::attach(NAME, &port()?)?;
    guest.wait_for_beat()?;
    let report = guest.report()?;
    healthy(&report)?;
    cx.value("witness", report)?;
    cx.value("resume", read_report(RUN_DIR, NAME)?)?;
    equal("The box", fdbox::listed(NAME)?.is_some(), false)?;
    guest.power_off()
}

fn is_in_state(state: u32) -> Result<()> {
    let listed = fdbox::listed(NAME)?.context("The box is gone")?;
    equal("The box's state", listed.state, state)
}

/// Kills a resume that has the box open and its state read. As long as it lives, nobody else
/// gets at the guest.
fn kill_in_the_middle() -> Result<()> {
    fs::create_dir_all(RUN_DIR)?;
    let mut resume = Command::new(VMM);
    resume.args(["resume", "--supervised", "--box", NAME]);
    resume.arg(format!("--api-socket={RUN_DIR}/{NAME}.sock"));
    resume.arg(format!("--console=socket={RUN_DIR}/{NAME}.console"));
    resume.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = resume.spawn().context("Run the VMM")?;
    let mut said = String::new();
    let stdout = child.stdout.take().context("Its output")?;
    BufReader::new(stdout).read_line(&mut said)?;
    let left_alone = said_ready(&said).and_then(|()| {
        is_in_state(uapi::STATE_OPEN)?;
        let ended = Ended::of(Command::new(VMM).args(["resume", "--all"]))?;
        ended.expect(0)?;
        ensure!(
            ended.text.contains("another process works"),
            "{}",
            ended.text
        );
        is_in_state(uapi::STATE_OPEN)
    });
    child.kill()?;
    child.wait()?;
    left_alone
}

fn said_ready(said: &str) -> Result<()> {
    let said: Value = serde_json::from_str(said).context("What the resume says")?;
    equal("What the resume says", &said["said"], &json!("ready"))
}
