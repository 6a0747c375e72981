//! A Debian guest that reboots while its host is updated. It has no witness of its own then.

use anyhow::{Context, Result};
use fdbox_lab::clocks::Sample;

use super::super::Cx;
use super::super::guest::port;
use super::marks::wall_clock_is_of;
use super::{boot, end_database, spec, start_database, wait_for_boot};
use crate::guest::{Guest, Spec};
use crate::network;

/// Takes it over without asking it anything.
fn resume(spec: Spec) -> Result<Guest> {
    let number = spec.number.context("Its disk has a number")?;
    network::set_up(number)?;
    Guest::resume_and(spec, &[], &port()?)
}

fn reboots() -> Spec {
    spec("reboots", 2)
}

/// Where the guest keeps, on its disk, what its database acknowledged.
const COMMITTED: &str = "/var/lib/lab.committed";

/// The update: its systemd has ended most of its services.
pub(super) fn going_down(cx: &Cx<'_>) -> Result<()> {
    cx.value("boots", true)?;
    let mut guest = boot(reboots(), "")?;
    start_database(&mut guest)?;
    guest.shell(&format!(
        "cp /run/lab/committed {COMMITTED} && systemctl reboot"
    ))?;
    guest.wait_for_stage("end")?;
    guest.update_host()
}

pub(super) fn up_again(_: &Cx<'_>) -> Result<()> {
    let mut guest = resume(reboots())?;
    wait_for_boot(&mut guest)?;
    wall_clock_is_of(&mut guest, &Sample::now())?;
    guest.shell(&format!("sh /run/lab/database-check {COMMITTED}"))?;
    start_database(&mut guest)?;
    end_database(&mut guest)?;
    guest.power_off_debian()
}
