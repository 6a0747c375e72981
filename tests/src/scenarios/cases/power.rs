//! Guests that reset, power off, or are told to; and guests that are paused by an operator.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::{WitnessEvent, command};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::json;

use super::guest::{port, spec};
use super::reports::{healthy, same_guest};
use super::upgrade::upgrade;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::console::BEAT_LIMIT;
use crate::fdbox;
use crate::guest::{Ended, Guest, KERNEL, READY_LIMIT, SPARED, Updating, VMM, Watch, status};
use crate::host;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "power/reset",
        about: "a guest that resets boots again in the same process, before an update and after it",
        host: HostKind::GuestOneBoot,
        stages: &[reset],
    },
    &Scenario {
        name: "power/reset-after-missing-files",
        about: "a guest whose kernel was missing when it was resumed boots again once another VMM has opened it",
        host: HostKind::GuestOneBoot,
        stages: &[reset_after_missing_files],
    },
    &Scenario {
        name: "power/paused-guest-moves",
        about: "a paused guest goes to another VMM and arrives paused; after a failed \
                update it is still paused",
        host: HostKind::GuestOneBoot,
        stages: &[paused_guest_moves],
    },
    &Scenario {
        name: "power/reset-in-an-update",
        about: "a guest that resets or powers off during an update does so where it is at \
                its end",
        host: HostKind::GuestOneBoot,
        stages: &[reset_in_an_update],
    },
    &Scenario {
        name: "power/button",
        about: "SIGHUP and SIGTERM press the power button; a guest that ignores it is \
                powered off",
        host: HostKind::GuestOneBoot,
        stages: &[button],
    },
    &Scenario {
        name: "power/terminal",
        about: "a terminal is restored, whether its VMM is asked to exit or is killed",
        host: HostKind::GuestOneBoot,
        stages: &[terminal],
    },
];

/// Makes the guest reset itself, and checks that it boots again in the same process.
fn reset_once(guest: &mut Guest, watch: &mut Watch) -> Result<()> {
    let (before, pid) = (guest.report()?, guest.spec.status()?["pid"].clone());
    guest.tell(command::RESET)?;
    watch.until("reset", None)?;
    guest
        .console
        .wait("pattern", READY_LIMIT, |event| match event {
            WitnessEvent::Ready { .. } => Some(()),
            _ => None,
        })?;
    let after = guest.report()?;
    healthy(&after)?;
    ensure!(
        after.boot_id != before.boot_id,
        "The guest did not boot again"
    );
    equal("The guest's CPUs", after.cpus, before.cpus)?;
    let status = guest.spec.status()?;
    equal("The VMM's process", &status["pid"], &pid)?;
    equal("The guest's state", &status["state"], &json!("running"))
}

fn reset(_: &Cx<'_>) -> Result<()> {
    let port = port()?;
    let mut guest = Guest::boot(spec("reset", "guest_memfd", 2), &port)?;
    let mut watch = Watch::start(&guest.spec.api())?;
    reset_once(&mut guest, &mut watch)?;
    reset_once(&mut guest, &mut watch)?;
    let before = guest.report()?;
    let (spec, status) = guest.hand_over_here()?;
    ensure!(status.success(), "The old VMM ended with {status}");
    let mut guest = Guest::resume(spec, &port)?;
    same_guest(&before, &guest.report()?)?;
    let mut watch = Watch::start(&guest.spec.api())?;
    reset_once(&mut guest, &mut watch)?;
    guest.power_off()
}

/// The guest's kernel, while it has another name.
struct Hidden;

impl Hidden {
    const NAME: &str = "/guest/hidden";

    fn hide() -> Result<Self> {
        fs::rename(KERNEL, Self::NAME).context("Hide the guest's kernel")?;
        Ok(Self)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Without it, no other guest boots here.
        fs::rename(Self::NAME, KERNEL).expect("The guest's kernel gets its name back");
    }
}

/// As in an initramfs, before the root file system is mounted.
fn reset_after_missing_files(_: &Cx<'_>) -> Result<()> {
    let port = port()?;
    let guest = Guest::boot(spec("late", "guest_memfd", 1), &port)?;
    let (spec, status) = guest.hand_over_here()?;
    ensure!(status.success(), "The old VMM ended with {status}");
    let hidden = Hidden::hide()?;
    let mut guest = Guest::resume(spec, &port)?;
    drop(hidden);
    let before = guest.report()?;
    upgrade(&guest)?;
    let opened = guest.runner()?;
    same_guest(&before, &guest.report()?)?;
    let mut watch = Watch::start(&guest.spec.api())?;
    reset_once(&mut guest, &mut watch)?;
    // The next VMM is lent what this one has opened.
    upgrade(&guest)?;
    let runner = guest.runner()?;
    drop(opened);
    let mut watch = Watch::start(&guest.spec.api())?;
    reset_once(&mut guest, &mut watch)?;
    guest.power_off_under(&runner)
}

fn paused_guest_moves(_: &Cx<'_>) -> Result<()> {
    let port = port()?;
    let mut guest = Guest::boot(spec("paused", "memfd", 2), &port)?;
    let before = guest.report()?;
    guest.command("pause")?.expect(0)?;
    let state = |guest: &Guest| Ok::<_, anyhow::Error>(guest.spec.status()?["state"].clone());
    for step in ["seal", "save", "jump"] {
        guest.live_update(&["--fail-at", step])?.expect(11)?;
        equal("The state", state(&guest)?, json!("paused"))?;
    }
    let (spec, status) = guest.hand_over_here()?;
    ensure!(status.success(), "The old VMM ended with {status}");
    let mut guest = Guest::resume_paused(spec, &port)?;
    equal("The state", state(&guest)?, json!("paused"))?;
    equal("A box", fdbox::listed(guest.spec.name)?.is_some(), false)?;
    guest.command("continue")?.expect(0)?;
    guest.wait_for_beat()?;
    same_guest(&before, &guest.report()?)?;
    guest.power_off()
}

fn button(_: &Cx<'_>) -> Result<()> {
    let port = port()?;
    let guest = Guest::boot(spec("hears", "guest_memfd", 1), &port)?;
    let watch = Watch::start(&guest.spec.api())?;
    // The terminal closes: both the kernel and the shell send the signal.
    guest.signal(Signal::HUP)?;
    guest.signal(Signal::HUP)?;
    let pressed = |event| matches!(event, WitnessEvent::PowerButton).then_some(());
    guest.console.wait("the button", BEAT_LIMIT, pressed)?;
    guest.wait_for_end()?;
    ended(watch, "the guest switched itself off")?;

    let mut guest = Guest::boot(spec("deaf", "guest_memfd", 1), &port)?;
    let mut watch = Watch::start(&guest.spec.api())?;
    guest.tell(command::BE_DEAF)?;
    guest.terminate()?;
    watch.until("power-button", None)?;
    guest.wait_for_beat()?;
    guest.wait_for_beat()?;
    equal(
        "The state",
        &guest.spec.status()?["state"],
        &json!("running"),
    )?;
    let mut update = Command::new(VMM);
    update.args(["live-update", "--no-kexec", "--stop-at", "load-kernel"]);
    let update = Updating::start(update.arg("--api-socket").arg(guest.spec.api()))?;
    let is_on = || Ok(guest.spec.status()?["state"] == "updating");
    host::until("The update is on", is_on)?;
    // It has a second to react, and is then cut off, even if an update's coordinator hangs.
    guest
        .command_with("shutdown", &["--timeout", "1"])?
        .expect(0)?;
    guest.wait_for_end()?;
    drop(watch);
    update.signal(Signal::CONT)?;
    update.end()?.expect(10)
}

/// The last event of a guest is the reason for its end.
fn ended(watch: Watch, why: &str) -> Result<()> {
    let events = watch.end()?;
    let last = events.last().context("There were no events")?;
    equal("The last event", &last["event"], &json!("ended"))?;
    equal("Why it ended", &last["message"], &json!(why))
}

/// A VMM whose console is a terminal, and that terminal.
struct AtTerminal {
    vmm: Child,
    terminal: OwnedFd,
    /// Closing it closes the terminal.
    _master: OwnedFd,
}

impl AtTerminal {
    fn start(name: &str) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = ptsname(&master, Vec::new())?;
        let terminal = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        // Like `nohup`, but without giving up the terminal.
        let ignoring = if name == "nohup" { "trap '' HUP; " } else { "" };
        let mut vmm = Command::new("/bin/sh");
        vmm.args(["-c", &format!("{ignoring}exec \"$@\""), "sh", VMM]);
        vmm.args(["run", "--kernel", KERNEL, SPARED, "--name", name]);
        vmm.arg("--api-socket");
        vmm.arg(format!("/run/{name}.api"));
        let vmm = vmm
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?);
        Ok(Self {
            vmm: vmm.spawn().context("Run the VMM")?,
            terminal,
            _master: master,
        })
    }

    fn is_raw(&self) -> Result<bool> {
        let modes = tcgetattr(&self.terminal)?.local_modes;
        Ok(!modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }
}

fn terminal(_: &Cx<'_>) -> Result<()> {
    for (name, signal) in [
        ("term", Signal::TERM),
        ("hup", Signal::HUP),
        ("nohup", Signal::TERM),
        ("kill", Signal::KILL),
    ] {
        let mut at = AtTerminal::start(name)?;
        ensure!(!at.is_raw()?, "The terminal is raw before the VMM has it");
        host::until("The terminal is raw", || at.is_raw())?;
        // Its API answers, so the VMM has started the guest.
        let api = format!("/run/{name}.api");
        host::until("The API answers", || Ok(status(Some(api.as_ref())).is_ok()))?;
        let pid = Pid::from_raw(at.vmm.id() as i32).context("A process has a number")?;
        if name == "nohup" {
            // It was started so that it outlives its terminal.
            kill_process(pid, Signal::HUP)?;
            for _ in 0..3 {
                status(Some(api.as_ref()))?;
            }
        }
        kill_process(pid, signal)?;
        if signal == Signal::TERM {
            // The guest does not react yet, or is too slow: a second signal ends it.
            kill_process(pid, signal)?;
        }
        at.vmm.wait()?;
        host::until("The terminal is as it was", || Ok(!at.is_raw()?))?;
    }
    Ok(())
}

/// Begins an update without a kexec and makes the guest do something during it, while its box is
/// sealed.
fn do_in_an_update(guest: &mut Guest, act: &str, more: &[&str]) -> Result<Ended> {
    let mut watch = Watch::start(&guest.spec.api())?;
    let mut update = Command::new(VMM);
    update.args(["live-update", "--no-kexec", "--json", "--api-socket"]);
    update.arg(guest.spec.api()).args(more);
    let update = Updating::start(&mut update)?;
    watch.until("step-started", Some("seal"))?;
    // The process that decides when to pause the guest is stopped for now.
    update.signal(Signal::STOP)?;
    guest.tell(act)?;
    update.signal(Signal::CONT)?;
    update.end()
}

fn reset_in_an_update(_: &Cx<'_>) -> Result<()> {
    let port = port()?;
    let mut guest = Guest::boot(spec("moves", "guest_memfd", 2), &port)?;
    let before = guest.report()?;
    do_in_an_update(&mut guest, command::RESET, &[])?.expect(0)?;
    let spec = guest.spec.clone();
    guest.wait_for_end()?;
    let mut guest = Guest::resume(spec, &port)?;
    let after = guest.report()?;
    healthy(&after)?;
    ensure!(
        after.boot_id != before.boot_id,
        "The guest did not boot again"
    );

    // An update that fails leaves the guest here, and it boots again here.
    let before = after;
    do_in_an_update(&mut guest, command::RESET, &["--fail-at", "jump"])?.expect(11)?;
    let ready = |event| matches!(event, WitnessEvent::Ready { .. }).then_some(());
    guest.console.wait("pattern", READY_LIMIT, ready)?;
    let after = guest.report()?;
    ensure!(
        after.boot_id != before.boot_id,
        "The guest did not boot again"
    );

    // A guest that powered off is not run again.
    do_in_an_update(&mut guest, command::POWER_OFF, &[])?.expect(0)?;
    let spec = guest.spec.clone();
    guest.wait_for_end()?;
    let mut resume = Command::new(VMM);
    resume
        .args(["resume", "--box", spec.name, "--api-socket"])
        .arg(spec.api());
    Ended::of(&mut resume)?.expect(0)?;
    equal("A box", fdbox::listed(spec.name)?.is_some(), false)
}
