//! Hosts that do not come back: their guests run on in the lifeboat, which reports that.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;
use serde_json::json;

use super::lifeboat_meeting::Meeting;
use super::lifeboat_update::{boot, go_with, guests_in_boat, spec};
use super::{Cx, Scenario};
use crate::boat::{ALONE, Boat, RUNNING};
use crate::check::equal;
use crate::guest::{Ended, VMM};
use crate::host;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/dead-host",
        about: "a guest keeps running in the boat of a next host that panics, and the boat reports it",
        host: HostKind::GuestLifeboatAstray,
        stages: &[leaves_for_one_that_panics, panics],
    },
    &Scenario {
        name: "lifeboat/hung-host",
        about: "a guest keeps running in the boat of a next host that hangs, and the boat reports it",
        host: HostKind::GuestLifeboatAstray,
        stages: &[leaves_for_one_that_hangs, hangs],
    },
];

/// The kernel that is entered reports nothing: the boat does.
fn leave_for(scenario: &str) -> Result<()> {
    let acts = format!("carry-and-outlive:aboard lab.scenario={scenario}");
    go_with(&boot(spec())?, &acts)
}

fn leaves_for_one_that_panics(_: &Cx<'_>) -> Result<()> {
    leave_for("lifeboat/dead-host")
}

fn leaves_for_one_that_hangs(_: &Cx<'_>) -> Result<()> {
    leave_for("lifeboat/hung-host")
}

/// The next host, up to the moment at which it dies.
fn arrive() -> Result<()> {
    let boat = Boat::open()?;
    equal("The state", boat.status()?.state, RUNNING)?;
    equal("The guests in it", guests_in_boat()?, json!([spec().name]))?;
    Meeting::wait()?.end()
}

/// This kernel would reset the machine after its panic, were it not for the boat.
fn panics(_: &Cx<'_>) -> Result<()> {
    arrive()?;
    fs::write("/proc/sys/kernel/panic", "-1")?;
    fs::write("/proc/sysrq-trigger", "c")?;
    bail!("The kernel did not panic")
}

/// No other thread runs any more, the kernel's own among them.
fn hangs(_: &Cx<'_>) -> Result<()> {
    arrive()?;
    // Both would leave some time to other threads.
    fs::write("/proc/sys/kernel/sched_rt_runtime_us", "-1")?;
    fs::write("/sys/kernel/debug/sched/fair_server/cpu0/runtime", "0")?;
    let priority = libc::sched_param { sched_priority: 99 };
    // SAFETY: the struct is valid for the call; 0 is this thread.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) };
    ensure!(set == 0, "{}", std::io::Error::last_os_error());
    loop {
        std::hint::spin_loop();
    }
}

/// The helper `host-is-dead NAME`, in the boat.
pub(super) fn host_is_dead(name: &str) -> Result<()> {
    let boat = Boat::open()?;
    boat.wait_for_state(ALONE)?;
    boat.is_refused(
        "To stop the boat in itself",
        boat.try_stop(0),
        Errno::NXIO,
        "only its host commands it",
    )?;
    is_restarted_by_none(&boat, Errno::NOENT, "prepared no rescue kernel")?;
    runs_on(name)
}

/// In the boat: the host is not restarted.
pub(super) fn is_restarted_by_none(boat: &Boat, errno: Errno, words: &str) -> Result<()> {
    boat.is_refused("To restart the host", boat.try_restart(0), errno, words)
}

/// In the boat of a host that is silent or has panicked: the guest runs.
pub(super) fn runs_on(name: &str) -> Result<()> {
    let shown = Ended::of(Command::new(VMM).args(["status", "--lifeboat"]))?;
    shown.expect(0)?;
    for words in [
        &format!("guests {name}; the host has "),
        "Lifeboat (this kernel)",
    ] {
        ensure!(shown.text.contains(words), "{}", shown.text);
    }
    let before = vmm_ticks()?;
    host::until("The guest keeps running", || Ok(vmm_ticks()? > before))
}

/// CPU time of the guest's VMM, nearly all of it in the guest.
fn vmm_ticks() -> Result<u64> {
    for process in fs::read_dir("/proc")? {
        let path = process?.path();
        // It may have ended meanwhile, or be no process.
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        if !command
            .split(|byte| *byte == 0)
            .any(|word| word == b"member")
        {
            continue;
        }
        let stat = fs::read_to_string(path.join("stat"))?;
        // The name in parentheses may have spaces.
        let fields = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
        let user = fields.split_whitespace().nth(11).context("User time")?;
        return Ok(user.parse()?);
    }
    bail!("No guest has a VMM here")
}
