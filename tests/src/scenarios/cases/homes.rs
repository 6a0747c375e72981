//! The homes of boxes: each passes the library's own checks.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::Report;
use rustix::process::{Pid, Signal, kill_process};

use serde_json::json;

use super::devices::{end_io, replace_the_vmm_of};
use super::guest::{asked, port, take_over, update_a};
use super::reports::same_guest;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::{Guest, Spec, Updating, VMM};
use crate::host;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "homes/fdbox",
        about: "the library's checks of every store of boxes pass over the module",
        host: HostKind::OneBoot,
        stages: &[fdbox],
    },
    &Scenario {
        name: "homes/luo",
        about: "they pass over LUO on an unpatched kernel without the module, and a sealed box crosses a kexec",
        host: HostKind::Stock,
        stages: &[before, after],
    },
    &Scenario {
        name: "homes/guest-luo",
        about: "a guest with disk and TCP connection goes on when the keeper is killed before the jump, and \
                then under a new kernel, both unpatched and without the module",
        host: HostKind::GuestLuo,
        stages: &[guest_before, guest_after],
    },
    &Scenario {
        name: "homes/guest-holder",
        about: "the same under another VMM, with nothing of the kernel's",
        host: HostKind::GuestHolder,
        stages: &[guest_binary],
    },
];

const PROGRAM: &str = "/bin/homes";

fn homes(arguments: &[&str]) -> Result<()> {
    let output = Command::new(PROGRAM).args(arguments).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "homes {arguments:?}: {stderr}");
    Ok(())
}

fn fdbox(_: &Cx<'_>) -> Result<()> {
    homes(&["holder"])?;
    homes(&["fdbox"])
}

fn before(_: &Cx<'_>) -> Result<()> {
    homes(&["holder"])?;
    // It keeps the box until the jump, and is not waited for.
    #[allow(clippy::zombie_processes, reason = "it ends with this kernel")]
    let mut keeper = Command::new(PROGRAM)
        .args(["luo", "leave"])
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = keeper.stdout.take().context("Its output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    equal("What it says", line.trim(), "left")
}

fn after(_: &Cx<'_>) -> Result<()> {
    homes(&["luo", "find"])
}

/// The guest of the demo, with the only kind of memory that LUO supports.
fn spec() -> Spec {
    Spec {
        number: Some(0),
        ram: "memfd".to_owned(),
        ..asked("demo", 256)
    }
}

/// The keeper that a command started.
fn keeper() -> Result<Pid> {
    let is_keeper = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"keeper")
    };
    let entries = std::fs::read_dir("/proc")?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found = pids.find(is_keeper).and_then(Pid::from_raw);
    found.context("There is no keeper")
}

/// Kills the keeper when the whole guest is in its box: the update is rolled back.
fn lose_the_keeper(guest: &mut Guest, update: Updating, before: &Report) -> Result<()> {
    update.wait_for_stop()?;
    kill_process(keeper()?, Signal::KILL)?;
    host::until("The keeper is gone", || Ok(keeper().is_err()))?;
    update.signal(Signal::CONT)?;
    let ended = update.end()?;
    ended.expect(11)?;
    let is_named = ended.text.contains("the keeper is gone");
    ensure!(is_named, "The keeper is not named: {}", ended.text);
    guest.wait_for_beat()?;
    same_guest(before, &guest.report()?)
}

const STOPS: [&str; 3] = ["--json", "--stop-at", "jump"];

fn guest_before(cx: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec(), &port()?)?;
    let before = guest.report()?;
    let update = guest.start_update(&STOPS)?;
    lose_the_keeper(&mut guest, update, &before)?;
    update_a(cx, guest)
}

fn guest_after(cx: &Cx<'_>) -> Result<()> {
    let mut guest = take_over(cx, spec())?;
    equal("The home", &guest.resume_report()?["home"], &json!("luo"))?;
    cx.value("io", end_io(&mut guest)?)?;
    guest.power_off()
}

fn guest_binary(cx: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec(), &port()?)?;
    let before = guest.report()?;
    let mut update = Command::new(VMM);
    update.args(["live-update", "--home", "holder", "--binary", VMM]);
    update.arg("--api-socket").arg(guest.spec.api()).args(STOPS);
    let update = Updating::start(&mut update)?;
    lose_the_keeper(&mut guest, update, &before)?;
    replace_the_vmm_of(cx, guest, &["--home", "holder"])?;
    // Nothing is left that has to be kept.
    let mut boxes = Command::new(VMM);
    let boxes = boxes
        .args(["status", "--json", "--home", "holder"])
        .output()?;
    equal(
        "The boxes",
        String::from_utf8_lossy(&boxes.stdout).trim(),
        "[]",
    )
}
