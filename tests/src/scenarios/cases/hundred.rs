//! A hundred VMMs, one after the other, under a busy guest: nothing leaks.

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use serde_json::json;

use super::reports::same_guest;
use super::upgrade::{blackout, boot_spec, upgrade};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::fdbox;
use crate::guest::{Holds, Spec};
use crate::host::{self, KernelHolds};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "upgrade/hundred",
    about: "a hundred VMMs, one after the other, under disk and TCP load: nothing leaks",
    host: HostKind::GuestAlone,
    stages: &[hundred],
}];

const UPGRADES: usize = 100;
/// The first upgrades fill caches, and lists that grow by doubling.
const WARM: usize = 10;
/// The tolerance for random differences. A leak would occur ninety times.
const FDS: usize = 4;
const THREADS: usize = 2;
const VMM_KIB: u64 = 256;
const KERNEL_KIB: u64 = 2048;
/// By then everything in a tmpfs or memfd of this host has a fixed size. A guest's state, which
/// each upgrade creates, takes some 300 KiB.
const SHMEM_KIB: u64 = 1024;
/// Two pages per upgrade would be 720 KiB. The per-CPU lists of pages on their way to or from the
/// LRU, and deferred counters, change this figure by several hundred KiB.
const RAW_KIB: u64 = 2048;

/// The resources in use after an upgrade.
#[derive(Debug, Clone, Copy)]
struct Held {
    vmm: Holds,
    kernel: KernelHolds,
}

fn hundred(cx: &Cx<'_>) -> Result<()> {
    let mut guest = boot_spec(Spec {
        name: "hundred",
        ram: "guest_memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: Some(0),
    })?;
    guest.console.wait_for_io(None)?;
    let (before, info) = (guest.report()?, fdbox::info()?);
    let (mut held, mut blackouts) = (Vec::new(), Vec::new());
    let mut runner = guest.runner()?;
    for _ in 0..UPGRADES {
        blackouts.push(blackout(&upgrade(&guest)?)?);
        let new = guest.runner()?;
        ensure!(new != runner, "The VMM is still the old one");
        runner = new;
        held.push(Held {
            vmm: runner.holds()?,
            kernel: host::kernel_holds()?,
        });
    }
    same_guest(&before, &guest.report()?)?;
    equal("The module's figures", fdbox::info()?, info)?;
    let io = guest.console.io()?;
    guest.console.wait_for_io(Some(&io))?;
    cx.value("io", guest.console.end_io()?)?;
    let (first, last) = (held[WARM], *held.last().context("There were upgrades")?);
    let half = UPGRADES / 2;
    let from_to = |of: fn(&Held) -> u64| json!({"first": of(&first), "last": of(&last)});
    let figures = json!({
        "count": blackouts.len(),
        "blackout_ns": {
            "median_of_first_half": median(&blackouts[..half]),
            "median_of_second_half": median(&blackouts[half..]),
            "largest": blackouts.iter().max(),
        },
        "fds": from_to(|held| held.vmm.fds as u64),
        "anonymous_kib": from_to(|held| held.vmm.anonymous_kib),
        "kernel_kib": from_to(|held| held.kernel.kib),
        "shmem_kib": from_to(|held| held.kernel.shmem_kib),
        "raw_kib": from_to(|held| held.kernel.raw_kib),
        "vms": last.kernel.vms,
    });
    // For a run with -v: on a shared machine no two times are alike.
    println!("{figures}");
    cx.value("upgrades", figures)?;
    nothing_leaks(&first, &last)?;
    guest.power_off_under(&runner)
}

fn median(times: &[u64]) -> u64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

fn nothing_leaks(first: &Held, last: &Held) -> Result<()> {
    ensure!(
        last.vmm.fds <= first.vmm.fds + FDS && last.vmm.threads <= first.vmm.threads + THREADS,
        "The VMMs held {:?} and then {:?}",
        first.vmm,
        last.vmm
    );
    ensure!(
        last.vmm.anonymous_kib <= first.vmm.anonymous_kib + VMM_KIB,
        "The VMMs' memory went from {} KiB to {} KiB",
        first.vmm.anonymous_kib,
        last.vmm.anonymous_kib
    );
    for (what, first, last, more) in [
        (
            "The kernel's memory",
            first.kernel.kib,
            last.kernel.kib,
            KERNEL_KIB,
        ),
        (
            "Shmem",
            first.kernel.shmem_kib,
            last.kernel.shmem_kib,
            SHMEM_KIB,
        ),
        (
            "Memory of nobody's",
            first.kernel.raw_kib,
            last.kernel.raw_kib,
            RAW_KIB,
        ),
    ] {
        ensure!(
            last <= first + more,
            "{what} went from {first} KiB to {last} KiB"
        );
    }
    // The old VMM may still be exiting.
    ensure!(
        last.kernel.vms <= 2 && last.kernel.processes <= first.kernel.processes + 2,
        "The kernel held {:?} and then {:?}",
        first.kernel,
        last.kernel
    );
    Ok(())
}
