//! A host on its way into the next kernel: the contents of the handover can no longer change.
//!
//! The module `fdbox_probe` blocks the reboot after fdbox.ko has been notified of it; a helper of
//! this program then tries the calls of the scenario, and reports the results to the next kernel.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Barrier;

use anyhow::{Context, Result, anyhow, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::memory::{self, PAGE, memfd, write_page};
use crate::probe::Probe;
use crate::{fdbox, host, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "leaving/seal-and-unseal",
        about: "EAGAIN: while the host reboots no box is sealed or unsealed, and a running \
                SEAL gives up; a sealed box arrives",
        host: HostKind::Kexec,
        stages: &[before, after],
    },
    &Scenario {
        name: "leaving/get",
        about: "EAGAIN: while the host reboots nothing from the last kernel is restored, \
                and the reboot waits for a running restore",
        host: HostKind::Kexec,
        stages: &[get_before, get_between, get_after],
    },
    &Scenario {
        name: "leaving/used-in-vain",
        about: "sealed boxes go on to the next kernel while processes continuously try to \
                use them",
        host: HostKind::Kexec,
        stages: &[in_vain_before, in_vain_between, in_vain_after],
    },
];

/// What the helper writes if all results are as expected.
const GOOD: &str = "good\n";
/// The box whose SEAL has begun by then.
const LATE: &str = "leaving-late";
/// What the helper prints when the reboot may begin.
const READY: &str = "ready";

fn before(_: &Cx<'_>) -> Result<()> {
    Probe::load()?;
    start("leave", "leaving")
}

/// Starts a helper that runs until this kernel ends; returns when the reboot may begin.
pub(super) fn start(helper: &str, argument: &str) -> Result<()> {
    // It runs until the end of this kernel, so it is not waited for.
    #[allow(clippy::zombie_processes, reason = "its parent is soon PID 1")]
    let mut helper = Command::new("/proc/self/exe")
        .args(["help", helper, argument])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("Run the helper")?;
    let stdout = helper.stdout.take().context("The helper's pipe")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    equal("The helper's word", line.trim(), READY)
}

pub(super) fn ready() -> Result<()> {
    println!("{READY}");
    Ok(std::io::stdout().flush()?)
}

/// Creates the sealed box `name`, which carries the results to the next kernel: its memory is not
/// taken out meanwhile.
fn verdict_box(name: &str) -> Result<(FdBox, File)> {
    let sealed = FdBox::create(name)?;
    let verdict = memfd(c"verdict", PAGE)?;
    sealed.put(verdict.try_clone()?, "verdict")?;
    sealed.seal()?;
    Ok((sealed, verdict))
}

fn write_verdict(verdict: &File, tried: Result<()>) -> Result<()> {
    let text = match tried {
        Ok(()) => GOOD.to_owned(),
        Err(error) => format!("{error:#}\n"),
    };
    Ok(verdict.write_all_at(text.as_bytes(), 0)?)
}

fn check_verdict(name: &str) -> Result<()> {
    let fdbox = FdBox::open(name)?;
    fdbox.unseal()?;
    let mut verdict: File = memory::file(fdbox.get("verdict")?);
    let mut text = String::new();
    verdict.read_to_string(&mut text)?;
    let text = text.trim_end_matches('\0');
    ensure!(text == GOOD, "While the host rebooted: {:?}", text.trim());
    fdbox.delete()
}

/// The helper `leave BOX`: seals the box and begins to seal another one, waits for the reboot, and
/// tries to seal and unseal.
pub(crate) fn leave(name: &str) -> Result<()> {
    let (sealed, verdict) = verdict_box(name)?;
    let open = FdBox::create("staying")?;
    let memory = memfd(c"staying", PAGE)?;
    write_page(&memory, 81, 0)?;
    open.put(memory, "memory")?;
    open.put(Probe::file()?, "probe")?;
    let late = FdBox::create(LATE)?;
    late.put(Probe::file()?, "probe-first")?;
    late.put(Probe::file()?, "probe-second")?;

    let probe = Probe::open()?;
    probe.tell("hold")?;
    let tried = std::thread::scope(|scope| {
        // SEAL is at the first of the box's descriptors when the host leaves.
        probe.tell("seal")?;
        let seal = scope.spawn(|| late.try_seal());
        probe.tell("await")?;
        ready()?;
        probe.await_reboot()?;
        let seals = Probe::seals()?;
        let tried = try_all(&sealed, &open);
        probe.tell("let-go")?;
        let late_result = seal.join().map_err(|_| anyhow!("A thread panicked"))?;
        tried?;
        gave_up("The SEAL that was going on", late_result, &late)?;
        drop(late.get("probe-first")?);
        equal("Calls of seal since then", Probe::seals()? - seals, 0)
    });
    write_verdict(&verdict, tried)?;
    probe.tell("go")
}

fn try_all(sealed: &FdBox, open: &FdBox) -> Result<()> {
    fails("UNSEAL", sealed.try_unseal(), Errno::AGAIN)?;
    gave_up("SEAL", open.try_seal(), open)?;
    // An open box is unchanged.
    drop(open.get("memory")?);
    Ok(())
}

fn gave_up(what: &str, result: Result<(), Errno>, fdbox: &FdBox) -> Result<()> {
    fails(what, result, Errno::AGAIN)?;
    let message = uapi::text(&fdbox.seal_error()?.message);
    ensure!(
        message.contains("on its way into the next kernel"),
        "The message of {what} is: {message}"
    );
    Ok(())
}

fn after(_: &Cx<'_>) -> Result<()> {
    check_verdict("leaving")?;
    let late = fdbox::listed(LATE)?.is_some();
    equal("The box whose SEAL gave up in the list", late, false)
}

/// Boxes with one descriptor of the driver each: its restore callback runs when the host leaves, or
/// is requested then.
const RESTORED: &str = "leaving-get";
const RESTORED_LATE: &str = "leaving-get-late";

fn get_before(_: &Cx<'_>) -> Result<()> {
    Probe::load()?;
    for name in [RESTORED, RESTORED_LATE] {
        let fdbox = FdBox::create(name)?;
        fdbox.put(Probe::file()?, "probe")?;
        fdbox.seal()?;
    }
    Ok(())
}

fn get_between(_: &Cx<'_>) -> Result<()> {
    Probe::load()?;
    start("leave-and-get", "leaving-get-verdict")
}

/// The helper `leave-and-get BOX`: begins to take a descriptor of the last kernel out of its box,
/// waits for the reboot, and tries to take out another one.
pub(crate) fn leave_and_get(name: &str) -> Result<()> {
    let (_, verdict) = verdict_box(name)?;
    let (running, late) = (FdBox::open(RESTORED)?, FdBox::open(RESTORED_LATE)?);
    running.unseal()?;
    late.unseal()?;
    let probe = Probe::open()?;
    probe.tell("hold")?;
    probe.tell("restore")?;
    let tried = std::thread::scope(|scope| {
        let get = scope.spawn(|| running.try_get("probe"));
        probe.tell("await")?;
        ready()?;
        probe.await_reboot()?;
        let tried = get_late(&late);
        probe.tell("let-go")?;
        get.join().map_err(|_| anyhow!("A thread panicked"))??;
        tried
    });
    write_verdict(&verdict, tried)?;
    probe.tell("go")
}

fn get_late(late: &FdBox) -> Result<()> {
    let restores = Probe::restores()?;
    fails("GET_FD", late.try_get("probe"), Errno::AGAIN)?;
    equal("Calls of restore since then", Probe::restores()?, restores)?;
    let log = host::kernel_log()?;
    let waited = |line: &String| line.contains("reboot:") && line.contains("goes on after");
    ensure!(
        log.iter().any(waited),
        "The reboot did not wait for GET_FD: {log:?}"
    );
    Ok(())
}

fn get_after(_: &Cx<'_>) -> Result<()> {
    check_verdict("leaving-get-verdict")
}

/// The number of boxes, each of which a task tries to use.
const IN_VAIN: usize = 16;

fn in_vain_name(number: usize) -> String {
    format!("leaving-in-vain-{number}")
}

fn in_vain_before(_: &Cx<'_>) -> Result<()> {
    (0..IN_VAIN).try_for_each(|number| FdBox::create(&in_vain_name(number))?.seal())
}

fn in_vain_between(_: &Cx<'_>) -> Result<()> {
    Probe::load()?;
    start("use-in-vain", "")
}

/// The helper `use-in-vain`: from just before fdbox.ko is notified of the reboot, tries to seal
/// boxes that are already sealed, and to take something out of them.
pub(crate) fn use_in_vain() -> Result<()> {
    let probe = Probe::open()?;
    probe.tell("early")?;
    ready()?;
    probe.tell("begun")?;
    let all = Barrier::new(IN_VAIN + 1);
    std::thread::scope(|scope| {
        for number in 0..IN_VAIN {
            let fdbox = FdBox::open(&in_vain_name(number))?;
            let all = &all;
            scope.spawn(move || {
                all.wait();
                loop {
                    let _ = (fdbox.try_get("none"), fdbox.try_seal());
                }
            });
        }
        all.wait();
        probe.tell("start")
    })
}

fn in_vain_after(_: &Cx<'_>) -> Result<()> {
    for number in 0..IN_VAIN {
        let fdbox = FdBox::open(&in_vain_name(number))?;
        fdbox.unseal()?;
        fdbox.delete()?;
    }
    Ok(())
}
