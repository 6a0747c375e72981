//! `live-update --lifeboat`: guests that run in a lifeboat while their host kexecs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::{Value, json};

use super::devices::end_io;
use super::guest::{asked, port, take_over};
use super::reports::{healthy, same_guest};
use super::{Cx, Scenario, privileges};
use crate::boat::{Boat, CONSOLE, INITRAMFS, KERNEL, OFF, RUNNING, of_none};
use crate::check::equal;
use crate::fdbox::FdBox;
use crate::guest::{Guest, Spec, VMM};
use crate::host;
use crate::memory::{self, PAGE, memfd};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/update",
        about: "one command takes a guest with disk and network to the boat and the host to the next kernel, and \
                `resume` takes the guest home",
        host: HostKind::GuestLifeboat,
        stages: &[leaves, comes_home],
    },
    &Scenario {
        name: "lifeboat/two-updates",
        about: "a guest with two CPUs is in a boat twice, while its host kexecs twice",
        host: HostKind::GuestLifeboat,
        stages: &[twice_first, twice_second, twice_third],
    },
    &Scenario {
        name: "lifeboat/large",
        about: "a guest of 1 GiB is in a boat while its host kexecs",
        host: HostKind::LargeGuestLifeboat,
        stages: &[large_leaves, large_comes_home],
    },
    &Scenario {
        name: "lifeboat/guest-memfd",
        about: "a guest on a guest_memfd is in a boat while its host kexecs, and has one again in the next",
        host: HostKind::GuestLifeboat,
        stages: &[on_guest_memfd_leaves, on_guest_memfd_comes_home],
    },
    &Scenario {
        name: "lifeboat/next-try",
        about: "a guest in the boat of a host that does not jump is taken back, and the next update succeeds",
        host: HostKind::GuestLifeboat,
        stages: &[tries_twice, comes_home_at_last],
    },
];

/// The boat's CPU.
pub(super) const CPU: &str = "1";
/// Those that the host has after its boot. A boat that ends gives back those that it got, and `resume` takes all online.
pub(super) const CPUS_AT_BOOT: &str = "0";
/// The box in which the host tells the next one when it left, and the file in it.
const LEFT: &str = "left";

/// The guest of the demo, on a memfd unless the lab requests otherwise.
pub(super) fn spec() -> Spec {
    let ram = std::env::var("LAB_GUEST_RAM").unwrap_or_else(|_| "memfd".to_owned());
    Spec {
        ram,
        ..asked("afloat", 128)
    }
}

/// The same on a guest_memfd.
pub(super) fn on_guest_memfd() -> Spec {
    Spec {
        ram: "guest_memfd".to_owned(),
        ..spec()
    }
}

/// The same with a disk and a network card, which rest in the boat.
pub(super) fn with_devices() -> Spec {
    Spec {
        number: Some(0),
        ..spec()
    }
}

fn large() -> Spec {
    Spec {
        mib: 1024,
        ..spec()
    }
}

fn with_two_cpus() -> Spec {
    Spec { cpus: 2, ..spec() }
}

/// Arguments of `live-update`: a boat on these CPUs.
pub(super) fn by_boat(cpus: &str) -> Vec<String> {
    by_boat_that(cpus, "carry")
}

/// The same with what the init of the boat does.
pub(super) fn by_boat_that(cpus: &str, acts: &str) -> Vec<String> {
    let cmdline = format!("{CONSOLE} lab.boat={acts}");
    let rest = [
        "--boat-kernel",
        KERNEL,
        "--boat-initramfs",
        INITRAMFS,
        "--boat-timeout",
        "180",
    ];
    let mut arguments = vec![
        format!("--lifeboat={cpus}"),
        "--boat-cmdline".to_owned(),
        cmdline,
    ];
    arguments.extend(rest.map(str::to_owned));
    arguments
}

pub(super) fn boot(spec: Spec) -> Result<Guest> {
    boot_with(spec, &[])
}

/// The same with additional arguments for the VMM.
pub(super) fn boot_with(spec: Spec, more: &[String]) -> Result<Guest> {
    // Loads its module.
    let boat = Boat::open()?;
    equal("The boat", boat.status()?, of_none())?;
    let mut guest = Guest::boot_with(spec, more, &port()?)?;
    healthy(&guest.report()?)?;
    Ok(guest)
}

/// Updates the host under a guest. Returns only on failure.
pub(super) fn leave(cx: &Cx<'_>, mut guest: Guest) -> Result<()> {
    // From now on, gaps are caused by the update.
    guest.reset_gap()?;
    cx.value("witness", guest.report()?)?;
    cx.value("vmm", privileges::vmm_status(&guest.spec.api())?)?;
    go(&guest)
}

fn go(guest: &Guest) -> Result<()> {
    go_with(guest, "carry")
}

/// Updates the host by a boat whose init acts so. Returns only on failure.
pub(super) fn go_with(guest: &Guest, acts: &str) -> Result<()> {
    guest.wait_for_beat()?;
    guest.wait_for_beat()?;
    note_the_time()?;
    let arguments = by_boat_that(CPU, acts);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    guest.update_host_with(&arguments)
}

/// Writes down the time again and again, until the host ends: the next one reads when that was.
pub(super) fn note_the_time() -> Result<()> {
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

/// Loads the boat's module in a host whose last kernel left these guests in a boat.
pub(super) fn arrive(cx: &Cx<'_>, guests: &[&str]) -> Result<Boat> {
    let boat = Boat::open()?;
    equal("The state", boat.status()?.state, RUNNING)?;
    equal("The guests in it", guests_in_boat()?, json!(guests))?;
    cx.value("left", time_noted()?)?;
    Ok(boat)
}

/// What `status` tells of the guests in the boat, by name; null without a boat.
pub(super) fn guests_in_boat() -> Result<Value> {
    let mut status = Command::new(VMM);
    status.args(["status", "--lifeboat", "--json"]);
    let output = status.output().context("Run vmm-example status")?;
    let boat: Value = serde_json::from_slice(&output.stdout).context("The status is JSON")?;
    let mut guests = boat["guests"].clone();
    if let Some(guests) = guests.as_array_mut() {
        guests.sort_by_key(ToString::to_string);
    }
    Ok(guests)
}

pub(super) fn come(cx: &Cx<'_>, spec: Spec) -> Result<Guest> {
    let boat = arrive(cx, &[spec.name])?;
    let guest = take_over(cx, spec)?;
    is_over(&boat, "0-1")?;
    Ok(guest)
}

/// Nothing is left of the boat soon, and the host has all these CPUs.
pub(super) fn is_over(boat: &Boat, cpus: &str) -> Result<()> {
    host::until("The boat has ended", || Ok(boat.status()? == of_none()))?;
    equal("What status tells", guests_in_boat()?, Value::Null)?;
    host::until("The host has its CPUs", || {
        let online = fs::read_to_string("/sys/devices/system/cpu/online");
        Ok(online.context("The CPUs")?.trim() == cpus)
    })
}

fn leaves(cx: &Cx<'_>) -> Result<()> {
    let mut guest = boot(with_devices())?;
    guest.console.wait_for_io(None)?;
    leave(cx, guest)
}

fn comes_home(cx: &Cx<'_>) -> Result<()> {
    let mut guest = come(cx, with_devices())?;
    cx.value("io", end_io(&mut guest)?)?;
    guest.power_off()
}

fn comes_home_at_last(cx: &Cx<'_>) -> Result<()> {
    come(cx, spec())?.power_off()
}

fn on_guest_memfd_leaves(cx: &Cx<'_>) -> Result<()> {
    leave(cx, boot(on_guest_memfd())?)
}

pub(super) fn on_guest_memfd_comes_home(cx: &Cx<'_>) -> Result<()> {
    let guest = come(cx, on_guest_memfd())?;
    has_guest_memfd(&guest)?;
    guest.power_off()
}

/// The VMM has a guest_memfd, and not only the memory of one.
fn has_guest_memfd(guest: &Guest) -> Result<()> {
    let status = guest.spec.status()?;
    let files = fs::read_dir(format!("/proc/{}/fd", status["pid"])).context("Its files")?;
    let mut names = files.flatten().flat_map(|file| fs::read_link(file.path()));
    ensure!(
        names.any(|name| name.to_string_lossy().contains("[kvm-gmem]")),
        "The guest is on another kind of memory"
    );
    Ok(())
}

fn large_leaves(cx: &Cx<'_>) -> Result<()> {
    leave(cx, boot(large())?)
}

fn large_comes_home(cx: &Cx<'_>) -> Result<()> {
    come(cx, large())?.power_off()
}

fn twice_first(cx: &Cx<'_>) -> Result<()> {
    leave(cx, boot(with_two_cpus())?)
}

fn twice_second(cx: &Cx<'_>) -> Result<()> {
    let mut guest = come(cx, with_two_cpus())?;
    guest.reset_gap()?;
    go(&guest)
}

fn twice_third(cx: &Cx<'_>) -> Result<()> {
    come(cx, with_two_cpus())?.power_off()
}

fn tries_twice(cx: &Cx<'_>) -> Result<()> {
    let mut guest = boot(spec())?;
    let boat = Boat::open()?;
    let before = guest.report()?;
    for (more, words) in [
        (&["--lifeboat=9"][..], "there is no CPU 9"),
        (&["--lifeboat=0"], "CPU 0 is the one that the host boots on"),
        (&["--cmdline", "kho=on"], "it has no maxcpus="),
        (
            &["--cmdline", "kho=on maxcpus=1 panic=10"],
            "with panic=10 it would reset the machine",
        ),
    ] {
        let mut arguments = by_boat(CPU);
        if more[0].starts_with("--lifeboat") {
            arguments.remove(0);
        }
        let arguments = arguments.iter().map(String::as_str);
        let arguments: Vec<&str> = arguments.chain(more.iter().copied()).collect();
        let refused = guest.live_update(&arguments)?;
        refused.expect(10)?;
        ensure!(
            refused.text.contains(words),
            "{words:?} was expected: {}",
            refused.text
        );
        equal("The boat", boat.status()?.state, OFF)?;
    }
    let mut guest = there_and_back(guest)?;
    same_guest(&before, &guest.report()?)?;
    leave(cx, guest)
}

/// The guest goes to the boat of a host that does not jump, and is taken back.
pub(super) fn there_and_back(guest: Guest) -> Result<Guest> {
    let boat = Boat::open()?;
    let mut arguments = by_boat(CPU);
    arguments.extend(["--fail-at", "jump"].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    guest.live_update(&arguments)?.expect(13)?;
    equal("The state", boat.status()?.state, RUNNING)?;
    // Its old VMM has ended.
    let spec = guest.spec.clone();
    drop(guest);
    let guest = Guest::resume_with(spec, None, &port()?)?;
    is_over(&boat, "0-1")?;
    Ok(guest)
}
