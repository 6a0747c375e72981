//! The homes of boxes: each passes the library's own checks.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;

use serde_json::json;

use super::devices::{end_io, replace_the_vmm};
use super::guest::{asked, take_over, update_under};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::{Spec, VMM};

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
        about: "a guest with disk and TCP connection goes on under a new kernel, both unpatched and without the module",
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
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "homes {arguments:?}: {said}");
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
    let said = keeper.stdout.take().context("Its output")?;
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
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

fn guest_before(cx: &Cx<'_>) -> Result<()> {
    update_under(cx, spec())
}

fn guest_after(cx: &Cx<'_>) -> Result<()> {
    let mut guest = take_over(cx, spec())?;
    equal("The home", &guest.resume_report()?["home"], &json!("luo"))?;
    cx.value("io", end_io(&mut guest)?)?;
    guest.power_off()
}

fn guest_binary(cx: &Cx<'_>) -> Result<()> {
    replace_the_vmm(cx, spec(), &["--home", "holder"])?;
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
