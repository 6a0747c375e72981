//! CPU state of a guest that must be preserved but is not visible under Linux: checked by a guest
//! without a kernel.

use anyhow::{Result, ensure};
use fdbox_lab::scenario::HostKind;

use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::{BareGuest, VMM, Watch};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "guest/msrs",
        about: "after each kind of update in one kernel, MSRs that KVM does not list are as \
                the guest wrote them",
        host: HostKind::GuestOneBoot,
        stages: &[msrs],
    },
    &Scenario {
        name: "guest/sixty-four-cpus",
        about: "64 vCPUs go through a kexec, and each has its own state",
        host: HostKind::Guest,
        stages: &[many_before, many_after],
    },
    &Scenario {
        name: "guest/internal-error",
        about: "when KVM cannot continue a guest, its last event says why",
        host: HostKind::GuestOneBoot,
        stages: &[internal_error],
    },
];

fn msrs(_: &Cx<'_>) -> Result<()> {
    let mut guest = BareGuest::boot("msrs")?;
    guest.write_msrs()?;
    guest.update(&["--no-kexec"])?;
    let mut guest = BareGuest::resume("msrs", &[])?;
    guest.holds_msrs()?;
    guest.update(&["--binary", VMM])?;
    guest.holds_msrs()?;
    guest.end()
}

const MANY: &str = "many";
const CPUS: u8 = 64;
const OTHERS: u64 = CPUS as u64 - 1;

fn many_before(_: &Cx<'_>) -> Result<()> {
    let mut guest = BareGuest::boot_with(MANY, CPUS)?;
    guest.start_cpus()?;
    equal("CPUs with their own number", guest.count_cpus()?, OTHERS)?;
    guest.update_host()
}

fn many_after(cx: &Cx<'_>) -> Result<()> {
    let mut guest = BareGuest::resume(MANY, &[])?;
    cx.value("no witness", true)?;
    equal("CPUs with their own number", guest.count_cpus()?, OTHERS)?;
    guest.end()
}

fn internal_error(_: &Cx<'_>) -> Result<()> {
    let guest = BareGuest::boot("internal-error")?;
    let watch = Watch::start(&guest.api())?;
    equal("The VMM's exit status", guest.crash()?, 1)?;
    let events = watch.end()?;
    let mut messages = events.iter().filter_map(|event| event["message"].as_str());
    let expected = "cannot emulate an instruction (internal error 1)";
    ensure!(
        messages.any(|message| message.contains(expected)),
        "{events:?}"
    );
    Ok(())
}
