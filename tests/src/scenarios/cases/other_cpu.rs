//! A host whose KVM supports fewer guest features than the last one's.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::plan;
use fdbox_lab::scenario::HostKind;

use serde_json::json;

use super::guest::{port, spec};
use super::reports::healthy;
use super::{Cx, Scenario, privileges};
use crate::check::equal;
use crate::guest::{BareGuest, Ended, Guest, Spec, VMM, command, status};
use crate::{fdbox, uapi};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "guest/other-cpu",
    about: "a guest that was offered SVM is refused on a host without it, one that was \
                not continues, and MSRs arrive",
    host: HostKind::Guest,
    stages: &[before, after],
}];

const LINUX: &str = "other-cpu";
const BARE: &str = "other-msrs";
/// The Linux guest does not see SVM: its kernel has KVM, which would enable it.
const NO_SVM: &str = "--hide-cpuid=leaf=0x80000001,ecx=0x4";
/// The module parameter for the next host's KVM.
const WITHOUT_SVM: &str = "kvm_amd.nested=0";
const FORCE: &str = "--force-cpu";

fn linux() -> Spec {
    spec(LINUX, "guest_memfd", 1)
}

fn before(cx: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot_with(linux(), &[NO_SVM.to_owned()], &port()?)?;
    let mut bare = BareGuest::boot(BARE)?;
    bare.write_msrs()?;
    // It polls its console all the time, and the host has one CPU.
    command("pause", &bare.api())?.expect(0)?;
    for (api, given) in [(guest.spec.api(), json!([])), (bare.api(), json!(["svm"]))] {
        equal(
            "What it was given",
            &status(Some(&api))?["cpu_features"],
            &given,
        )?;
    }
    healthy(&guest.report()?)?;
    let dry = update(&guest, &bare, &["--dry-run"])?;
    dry.expect(10)?;
    let reason = format!("guest {BARE} was given SVM, which that host lacks");
    ensure!(dry.text.contains(&reason), "Not {reason:?}: {}", dry.text);
    ensure!(
        !dry.text.contains(&format!("guest {LINUX} was given")),
        "{}",
        dry.text
    );
    guest.reset_gap()?;
    cx.value("witness", guest.report()?)?;
    cx.value("vmm", privileges::vmm_status(&guest.spec.api())?)?;
    guest.wait_for_beat()?;
    guest.wait_for_beat()?;
    let ended = update(&guest, &bare, &[FORCE])?;
    bail!("The host was not updated: {:?}", ended.status)
}

/// An update of both guests to a host without SVM for guests.
fn update(guest: &Guest, bare: &BareGuest, more: &[&str]) -> Result<Ended> {
    let cmdline = std::env::var(plan::NEXT_CMDLINE).context("The plan has no next kernel")?;
    let mut update = Command::new(VMM);
    update.arg("live-update");
    for api in [guest.spec.api(), bare.api()] {
        update.arg("--api-socket").arg(api);
    }
    update.args(["--kernel", plan::NEXT_KERNEL]);
    update.args(["--initramfs", plan::NEXT_INITRAMFS]);
    update.args(["--cmdline", &format!("{cmdline} {WITHOUT_SVM}")]);
    Ended::of(update.args(more))
}

fn after(cx: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::resume(linux(), &port()?)?;
    let report = guest.report()?;
    healthy(&report)?;
    cx.value("witness", &report)?;
    cx.value("resume", guest.resume_report()?)?;
    cx.value("vmm", privileges::vmm_status(&guest.spec.api())?)?;
    let mut resume = Command::new(VMM);
    resume.args(["resume", "--box", BARE, "--api-socket", "/run/refused.api"]);
    let refused = Ended::of(&mut resume)?;
    refused.expect(10)?;
    let reason = "lack what the guest was given: SVM: ";
    ensure!(refused.text.contains(reason), "{}", refused.text);
    let listed = fdbox::listed(BARE)?.context("The box is gone")?;
    equal("The box's state", listed.state, uapi::STATE_SEALED)?;
    let mut bare = BareGuest::resume(BARE, &[FORCE])?;
    command("continue", &bare.api())?.expect(0)?;
    bare.holds_msrs()?;
    bare.end()?;
    guest.power_off()
}
