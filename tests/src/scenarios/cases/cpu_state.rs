//! What of a guest's CPU must arrive and Linux does not show: told by a guest without a kernel.

use anyhow::Result;
use fdbox_lab::scenario::HostKind;

use super::{Cx, Scenario};
use crate::guest::{BareGuest, VMM};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "guest/msrs",
    about: "MSRs that KVM does not list are as the guest wrote them after each kind of update in one kernel",
    host: HostKind::GuestOneBoot,
    stages: &[msrs],
}];

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
