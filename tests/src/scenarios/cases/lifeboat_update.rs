//! `live-update --lifeboat`: guests that run in a lifeboat while their host kexecs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::scenario::HostKind;

use super::guest::{asked, port, take_over};
use super::reports::healthy;
use super::{Cx, Scenario, privileges};
use crate::boat::{Boat, CONSOLE, INITRAMFS, KERNEL, comes_back, of_none};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::guest::{Guest, Spec};
use crate::memory::{self, PAGE, memfd};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "lifeboat/update",
    about: "one command takes a guest to the boat and the host to the next kernel, and `resume` takes the \
            guest home",
    host: HostKind::GuestLifeboat,
    stages: &[leaves, comes_home],
}];

const CPU: u32 = 1;
/// The box in which the host tells the next one when it left, and the file in it.
const LEFT: &str = "left";

/// The guest of the demo.
fn spec() -> Spec {
    Spec {
        ram: "memfd".to_owned(),
        ..asked("afloat", 128)
    }
}

fn leaves(cx: &Cx<'_>) -> Result<()> {
    // Loads its module.
    let boat = Boat::open()?;
    equal("The boat", boat.status()?, of_none())?;
    let mut guest = Guest::boot(spec(), &port()?)?;
    healthy(&guest.report()?)?;
    // From now on, gaps are caused by the update.
    guest.reset_gap()?;
    cx.value("witness", guest.report()?)?;
    cx.value("vmm", privileges::vmm_status(&guest.spec.api())?)?;
    guest.wait_for_beat()?;
    guest.wait_for_beat()?;
    note_the_time()?;
    guest.update_host_with(&[
        "--lifeboat=1",
        "--boat-kernel",
        KERNEL,
        "--boat-initramfs",
        INITRAMFS,
        "--boat-cmdline",
        &format!("{CONSOLE} lab.boat=carry"),
        "--boat-timeout",
        "180",
    ])
}

/// Writes down the time again and again, until the host ends: the next one reads when that was.
fn note_the_time() -> Result<()> {
    let file = memfd(c"left", PAGE)?;
    let fdbox = FdBox::create(LEFT)?;
    fdbox.put(file.try_clone()?, LEFT)?;
    fdbox.seal()?;
    thread::spawn(move || {
        // A write that fails leaves the last time.
        while file
            .write_all_at(&fdbox_lab::tsc().to_le_bytes(), 0)
            .is_ok()
        {
            thread::sleep(Duration::from_millis(1));
        }
    });
    Ok(())
}

/// When the last host ended, by the time stamp counter.
fn time_noted() -> Result<u64> {
    let fdbox = FdBox::open(LEFT)?;
    fdbox.unseal()?;
    let file: File = memory::file(fdbox.get(LEFT)?);
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0)?;
    fdbox.delete()?;
    Ok(u64::from_le_bytes(bytes))
}

fn comes_home(cx: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    cx.value("left", time_noted()?)?;
    let guest = take_over(cx, spec())?;
    equal("What is left of the boat", boat.status()?, of_none())?;
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online");
    equal("The host's CPUs", online.context("The CPUs")?.trim(), "0-1")?;
    comes_back(CPU)?;
    guest.power_off()
}
