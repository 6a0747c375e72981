//! Replaces the VMM under its guest, without a kexec: with `live-update --binary`, and with QEMU's
//! cpr-transfer.

use std::sync::Arc;

use anyhow::{Context, Result};
use fdbox_lab::bench::{CPR_TRANSFER, UPGRADED, UPGRADED_PHASES};
use fdbox_lab::event::EventPort;

use super::qemu::Qemu;
use super::{number, say};
use crate::guest::{Guest, Spec, VMM};

/// Sends the blackout of each upgrade, as reported by the new VMM.
pub(super) fn binary(ram: &str, mib: &str, runs: &str) -> Result<()> {
    let port = Arc::new(EventPort::open()?);
    let spec = Spec {
        name: "upgraded",
        ram: ram.to_owned(),
        mib: number(mib)?,
        cpus: 1,
        number: None,
    };
    let guest = Guest::boot(spec, &port)?;
    let mut runner = guest.runner()?;
    for _ in 0..number(runs)? {
        guest.upgrade(VMM, &[])?.expect(0)?;
        let blackout = &guest.resume_report()?["blackout"];
        let total = blackout["total_ns"].as_u64().context("A blackout")?;
        say(&port, UPGRADED, total)?;
        say(&port, UPGRADED_PHASES, &blackout["phases"])?;
        guest.wait_for_beat()?;
        runner = guest.runner()?;
    }
    guest.power_off_under(&runner)
}

/// Sends how long the guest was stopped in each transfer, as logged by the two QEMUs.
pub(super) fn cpr_transfer(mib: &str, runs: &str) -> Result<()> {
    let port = Arc::new(EventPort::open()?);
    let mut qemu = Qemu::boot(number(mib)?, &port)?;
    for _ in 0..number(runs)? {
        let (next, stopped_ns) = qemu.transfer(&port)?;
        say(&port, CPR_TRANSFER, stopped_ns)?;
        qemu = next;
    }
    Ok(())
}
