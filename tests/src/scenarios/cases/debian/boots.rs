//! A Debian guest that boots, or reboots, while its host is updated. It has no witness of its own then.

use anyhow::{Context, Result, ensure};
use fdbox_lab::clocks::Sample;

use super::super::Cx;
use super::super::guest::port;
use super::marks::wall_clock_is_of;
use super::{boot, end_database, spec, start_database, wait_for_boot};
use crate::guest::{Guest, Spec};
use crate::network;

fn boots() -> Spec {
    spec("boots", 2)
}

/// Takes it over without asking it anything.
fn resume(spec: Spec) -> Result<Guest> {
    let number = spec.number.context("Its disk has a number")?;
    network::set_up(number)?;
    Guest::resume_and(spec, &[], &port()?)
}

/// The first update: its kernel has just started its initramfs.
pub(super) fn early(cx: &Cx<'_>) -> Result<()> {
    cx.value("no witness", true)?;
    // The guest keeps the clocks of this host, which those of the next ones say nothing of.
    let clocks = Sample::now();
    let words = format!(
        "lab_tsc={} lab_realtime_ns={}",
        clocks.tsc, clocks.realtime_ns
    );
    let guest = Guest::boot_debian(boots(), &words, &port()?)?;
    guest.wait_for_stage("initramfs")?;
    guest.update_host()
}

/// The second one: its systemd has just started its first services.
pub(super) fn later(_: &Cx<'_>) -> Result<()> {
    let guest = resume(boots())?;
    guest.wait_for_stage("systemd")?;
    guest.update_host()
}

/// The clocks of the host that it booted on.
fn first_host(guest: &mut Guest) -> Result<Sample> {
    let mut kept = |word: &str| {
        guest.number(&format!(
            "sed -n 's/.*{word}=\\([0-9]*\\).*/\\1/p' /proc/cmdline"
        ))
    };
    Ok(Sample {
        tsc: kept("lab_tsc")?,
        monotonic_ns: 0,
        realtime_ns: kept("lab_realtime_ns")?,
    })
}

/// Warnings of a guest that is slow, with updates or without.
const SLOW: [&str; 2] = ["hrtimer: interrupt took ", " is taking a long time"];

/// What it warned of in the boot before this one, and not in this one.
fn more_warnings(guest: &mut Guest) -> Result<Vec<String>> {
    let mut warnings = |boot: &str| {
        let warnings = format!("journalctl -q -b {boot} -p warning -o cat");
        guest.shell(&warnings)
    };
    let (before, now) = (warnings("-1")?, warnings("0")?);
    let now: Vec<&str> = now.lines().collect();
    let is_new = |line: &&str| !now.contains(line) && !SLOW.iter().any(|slow| line.contains(slow));
    Ok(before.lines().filter(is_new).map(str::to_owned).collect())
}

pub(super) fn up(_: &Cx<'_>) -> Result<()> {
    let mut guest = resume(boots())?;
    guest.wait_until_up()?;
    let first_host = first_host(&mut guest)?;
    wall_clock_is_of(&mut guest, &first_host)?;
    guest.shell("systemctl reboot")?;
    guest.wait_for_stage("end")?;
    wait_for_boot(&mut guest)?;
    wall_clock_is_of(&mut guest, &Sample::now())?;
    let more = more_warnings(&mut guest)?;
    ensure!(more.is_empty(), "Only with updates it warns of {more:?}");
    guest.power_off_debian()
}

fn reboots() -> Spec {
    spec("reboots", 2)
}

/// Where the guest keeps, on its disk, what its database acknowledged.
const COMMITTED: &str = "/var/lib/lab.committed";

/// The update: its systemd has ended most of its services.
pub(super) fn going_down(cx: &Cx<'_>) -> Result<()> {
    cx.value("no witness", true)?;
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
    let more = more_warnings(&mut guest)?;
    ensure!(
        more.is_empty(),
        "Only until its reboot, with an update, it warned of {more:?}"
    );
    guest.shell(&format!("sh /run/lab/database-check {COMMITTED}"))?;
    start_database(&mut guest)?;
    end_database(&mut guest)?;
    guest.power_off_debian()
}
