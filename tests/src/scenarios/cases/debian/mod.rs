//! Guests that nobody here made: Debian's kernel and user space. Besides the lab's own witness, a database, a verified
//! disk benchmark, the journal and the clocks say whether an update went unnoticed.

mod boots;
mod marks;
mod pressure;

use anyhow::Result;
use fdbox_lab::clocks::Sample;
use fdbox_lab::scenario::{Debian, HostKind};

use self::marks::{mark, unnoticed, wall_clock_is_of};
use super::guest::{leave_with, port, take_over};
use super::reports::{healthy, same_guest};
use super::{Cx, Scenario};
use crate::guest::{Guest, Spec, VMM};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "debian/works",
        about: "a Debian guest that works continues under a new kernel, and then under another VMM, and does not notice",
        host: HostKind::Debian(Debian::Trixie),
        stages: &[works_before, works_after],
    },
    &Scenario {
        name: "debian/four-cpus",
        about: "the same with four CPUs, on the TSC instead of kvm-clock",
        host: HostKind::Debian(Debian::Trixie),
        stages: &[four_cpus_before, four_cpus_after],
    },
    &Scenario {
        name: "debian/boot",
        about: "a Debian guest whose host is updated twice while it boots comes up, logs what it logs in other boots, and \
                reboots",
        host: HostKind::Debian(Debian::Trixie),
        stages: &[boots::early, boots::later, boots::up],
    },
    &Scenario {
        name: "debian/reboot",
        about: "a Debian guest whose host is updated while it reboots comes up, with all that its database acknowledged",
        host: HostKind::Debian(Debian::Trixie),
        stages: &[boots::going_down, boots::up_again],
    },
    &Scenario {
        name: "debian/pressure",
        about: "a Debian guest that uses more memory than it has continues under a new kernel, and gets back what is in its \
                swap",
        host: HostKind::Debian(Debian::Trixie),
        stages: &[pressure::before, pressure::after],
    },
    &Scenario {
        name: "debian/6.1",
        about: "debian/works with the kernel and user space of Debian 12",
        host: HostKind::Debian(Debian::Bookworm),
        stages: &[works_before, works_after],
    },
    &Scenario {
        name: "debian/5.10",
        about: "debian/works with the kernel and user space of Debian 11",
        host: HostKind::Debian(Debian::Bullseye),
        stages: &[works_before, works_after],
    },
];

/// Transactions, before an update and after it.
const ROWS: u64 = 3;
/// The same for runs of the benchmark.
const RUNS: u64 = 1;

fn spec(name: &'static str, cpus: u32) -> Spec {
    Spec {
        name,
        ram: "guest_memfd".to_owned(),
        mib: 512,
        cpus,
        number: Some(0),
    }
}

/// Waits until it has booted.
fn wait_for_boot(guest: &mut Guest) -> Result<()> {
    guest.wait_for_stage("initramfs")?;
    guest.wait_for_stage("systemd")?;
    guest.wait_until_up()
}

/// Boots it completely.
fn boot(spec: Spec, words: &str) -> Result<Guest> {
    let mut guest = Guest::boot_debian(spec, words, &port()?)?;
    wait_for_boot(&mut guest)?;
    wall_clock_is_of(&mut guest, &Sample::now())?;
    Ok(guest)
}

/// Starts the database and waits for its first rows.
fn start_database(guest: &mut Guest) -> Result<()> {
    guest.start_script("database")?;
    guest.wait_for_count("committed", ROWS)
}

/// Waits for more rows, ends the database, and checks it.
fn end_database(guest: &mut Guest) -> Result<()> {
    guest.wait_for_more("committed", ROWS)?;
    guest.stop_script("database")?;
    guest.shell("sh /run/lab/database-check").map(|_| ())
}

fn work_before(cx: &Cx<'_>, spec: Spec, words: &str) -> Result<()> {
    let mut guest = boot(spec, words)?;
    start_database(&mut guest)?;
    guest.start_script("fio")?;
    guest.wait_for_count("runs", RUNS)?;
    healthy(&guest.report()?)?;
    mark(&mut guest)?;
    leave_with(cx, guest)
}

/// Returns the guest when it has worked on.
fn work_after(cx: &Cx<'_>, spec: Spec) -> Result<Guest> {
    let mut guest = take_over(cx, spec)?;
    unnoticed(&mut guest)?;
    // A run that was under way when the host was left, and one that was not.
    guest.wait_for_more("runs", RUNS + 1)?;
    Ok(guest)
}

/// Ends its work and the guest itself.
fn end(mut guest: Guest) -> Result<()> {
    guest.stop_script("fio")?;
    end_database(&mut guest)?;
    guest.is_sound()?;
    guest.power_off_debian()
}

fn works_before(cx: &Cx<'_>) -> Result<()> {
    work_before(cx, spec("works", 1), "")
}

fn works_after(cx: &Cx<'_>) -> Result<()> {
    let mut guest = work_after(cx, spec("works", 1))?;
    let before = guest.report()?;
    mark(&mut guest)?;
    guest.upgrade(VMM, &[])?.expect(0)?;
    unnoticed(&mut guest)?;
    same_guest(&before, &guest.report()?)?;
    end(guest)
}

/// The guest does not use kvm-clock, and its kernel trusts the TSC as it would on a machine of its own.
const BY_TSC: &str = "clocksource=tsc tsc=reliable";

fn four_cpus() -> Spec {
    spec("four-cpus", 4)
}

fn four_cpus_before(cx: &Cx<'_>) -> Result<()> {
    work_before(cx, four_cpus(), BY_TSC)
}

fn four_cpus_after(cx: &Cx<'_>) -> Result<()> {
    let mut guest = work_after(cx, four_cpus())?;
    guest.shell("grep -qx tsc /sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    end(guest)
}
