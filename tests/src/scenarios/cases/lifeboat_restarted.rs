//! Hosts that do not come back, and are restarted by the lifeboat in a rescue kernel: their guests come home.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::{kexec, plan};
use rustix::io::Errno;

use super::lifeboat_dead_host::{is_restarted_by_none, runs_on};
use super::lifeboat_update::{CPU, boot, by_boat_that, come, note_the_time, spec};
use super::{Cx, Scenario};
use crate::boat::{ABOARD, ALONE, Boat, OFF, Spec as BoatSpec};
use crate::check::equal;
use crate::host;
use crate::kexec::{load_legacy, unload_legacy};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/restarted-host",
        about: "the boat restarts a next host that panics while it boots, and the guest comes home",
        host: HostKind::GuestLifeboatAstray,
        stages: &[leaves_for_one_that_panics, comes_home],
    },
    &Scenario {
        name: "lifeboat/restarted-hung-host",
        about: "the boat restarts a next host that never loads the module, and the guest comes home",
        host: HostKind::GuestLifeboatAstray,
        stages: &[leaves_for_one_that_hangs, comes_home_to_idle_devices],
    },
    &Scenario {
        name: "lifeboat/restarted-too-late",
        about: "the boat does not restart a host that has taken over its boxes, and the guest keeps running in it",
        host: HostKind::GuestLifeboatAstray,
        stages: &[leaves_for_one_that_hangs_later, hangs_with_boxes],
    },
];

/// Words for the next kernel: it finds no init, and panics.
const PANICS: &str = "rdinit=/absent";
/// Its init gives this device the right to DMA, and then keeps the kernel busy for ever.
const HANGS: &str = "rdinit=/bin/sh -- -c \"mkdir -p /sys; mount -t sysfs sysfs /sys; \
    printf '\\006' | dd of=/sys/bus/pci/devices/0000:00:1f.2/config bs=1 seek=4; while :; do :; done\"";
/// The disk controller of the machine, for which no kernel of the lab has a driver.
const IDLE_DEVICE: &str = "/sys/bus/pci/devices/0000:00:1f.2/config";
/// `PCI_COMMAND`, and in it `PCI_COMMAND_MASTER`.
const COMMAND_AT: u64 = 4;
const MASTER: u8 = 4;
/// What the boat does besides: it reports a host that is not there soon after it was restarted.
const COMES_BACK: &str = "carry-and-expect:aboard";
/// It reports how the guest is when it could not restart the host.
const STAYS_AWAY: &str = "carry-and-stay:aboard";
/// Within this time it has tried to.
const TRY_LIMIT: Duration = Duration::from_secs(120);
/// For how long a host may be silent, in seconds.
const SILENCE: &str = "40";

/// How many threads load a kernel, so that one of them nearly always does, even on a host with one CPU.
const LOADERS: usize = 3;

/// A boat that takes along what makes no rescue kernel.
fn is_refused(boat: &Boat, spec: &BoatSpec, errno: Errno, words: &str) -> Result<()> {
    let rescue = BoatSpec {
        rescue: true,
        ..spec.clone()
    };
    boat.is_refused("LOAD", boat.try_load(&rescue)?, errno, words)?;
    equal("The state", boat.status()?.state, OFF)
}

/// What makes no rescue kernel: none, one that is told of no handover, one that is being loaded, and one that does not
/// fit.
fn refuses(rescue: &str) -> Result<()> {
    let (boat, spec) = (Boat::open()?, BoatSpec::new("stay", &[1]));
    is_refused(&boat, &spec, Errno::NOENT, "no kernel is loaded")?;
    load_legacy()?;
    let words = "load the rescue kernel by kexec_file_load(2)";
    is_refused(&boat, &spec, Errno::NOEXEC, words)?;
    unload_legacy()?;
    refuses_while_loading(&boat, &spec, rescue)?;
    is_refused(&boat, &spec, Errno::FBIG, "more than the boat's")
}

/// Leaves it loaded.
fn refuses_while_loading(boat: &Boat, spec: &BoatSpec, rescue: &str) -> Result<()> {
    let rescued = BoatSpec {
        rescue: true,
        ..spec.clone()
    };
    let is_over = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        for _ in 0..LOADERS {
            // All but one of them are told that it is busy.
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = kexec::load_next(rescue);
                }
            });
        }
        let refused = host::until("A kernel is being loaded", || {
            let refused = boat.try_load(&rescued)?;
            ensure!(refused.is_err(), "The boat is loaded");
            Ok(boat.words()?.contains("a kernel is being loaded"))
        });
        is_over.store(true, Ordering::Relaxed);
        refused
    });
    refused?;
    kexec::load_next(rescue)
}

/// The next kernel does not come up. The rescue kernel is the one that stage 2 is planned for.
fn leave_for(words: &str, acts: &str, scenario: &str) -> Result<()> {
    let rescue = env::var(plan::NEXT_CMDLINE).context("The plan has no next kernel")?;
    refuses(&rescue)?;
    let guest = boot(spec())?;
    let cmdline = format!("{rescue} {words}");
    let mut arguments = by_boat_that(CPU, &format!("{acts} lab.scenario={scenario}"));
    let more = [
        ("--boat-memory", "256"),
        ("--rescue-kernel", plan::NEXT_KERNEL),
        ("--rescue-initramfs", plan::NEXT_INITRAMFS),
        ("--rescue-cmdline", &rescue),
        ("--rescue-after", SILENCE),
        ("--cmdline", &cmdline),
    ];
    for (option, value) in more {
        arguments.extend([option, value].map(str::to_owned));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    note_the_time()?;
    guest.update_host_with(&arguments)
}

fn leaves_for_one_that_panics(_: &Cx<'_>) -> Result<()> {
    leave_for(PANICS, COMES_BACK, "lifeboat/restarted-host")
}

fn leaves_for_one_that_hangs(_: &Cx<'_>) -> Result<()> {
    leave_for(HANGS, COMES_BACK, "lifeboat/restarted-hung-host")
}

/// An ordinary kernel, which does not load the boat's module.
fn leaves_for_one_that_hangs_later(_: &Cx<'_>) -> Result<()> {
    leave_for("", STAYS_AWAY, "lifeboat/restarted-too-late")
}

/// `fdbox.ko` is loaded by now, and has taken over what the rescue kernel needs.
fn hangs_with_boxes(_: &Cx<'_>) -> Result<()> {
    loop {
        thread::park();
    }
}

fn comes_home(cx: &Cx<'_>) -> Result<()> {
    come(cx, spec())?.power_off()
}

/// The boat has taken the right to DMA from what has no driver, too.
fn comes_home_to_idle_devices(cx: &Cx<'_>) -> Result<()> {
    let mut command = [0];
    let config = File::open(IDLE_DEVICE).context("Open the device's configuration")?;
    config.read_exact_at(&mut command, COMMAND_AT)?;
    equal("Its right to DMA", command[0] & MASTER, 0)?;
    comes_home(cx)
}

/// The helper `host-comes-back NAME`, in the boat: waits for the host that it restarts.
pub(super) fn host_comes_back(name: &str) -> Result<()> {
    let back = Boat::open()?.wait_for_state(ABOARD);
    back.with_context(|| format!("No host comes back to {name}"))
}

/// The helper `host-is-too-far NAME`, in the boat: what becomes of a host whose boxes were taken over.
pub(super) fn host_is_too_far(name: &str) -> Result<()> {
    let boat = Boat::open()?;
    let words = "has taken over what the rescue kernel needs";
    host::within(TRY_LIMIT, "The boat has tried to restart the host", || {
        Ok(boat.words()?.contains(words))
    })?;
    equal("The state", boat.status()?.state, ALONE)?;
    is_restarted_by_none(&boat, Errno::STALE, words)?;
    runs_on(name)
}
