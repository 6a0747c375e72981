//! A host on its way into the next kernel: what goes over is settled.
//!
//! The module `fdbox_probe` holds the reboot up, after fdbox.ko has heard of it; a helper of this program
//! tries then what the scenario is about, and tells the next kernel how that went.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::memory::{self, PAGE, memfd, write_page};
use crate::probe::Probe;
use crate::{fdbox, uapi};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "leaving/seal-and-unseal",
    about: "EAGAIN: while the host reboots no box is sealed or unsealed, and a SEAL that runs gives up; a sealed one arrives",
    host: HostKind::Kexec,
    stages: &[before, after],
}];

/// What the helper writes when all is as it should be.
const GOOD: &str = "good\n";
/// The box whose SEAL has begun by then.
const LATE: &str = "leaving-late";
/// What the helper says when the reboot may begin.
const READY: &str = "ready";

fn before(_: &Cx<'_>) -> Result<()> {
    Probe::load()?;
    // It is not waited for: it ends with this kernel.
    #[allow(clippy::zombie_processes, reason = "its parent is soon PID 1")]
    let mut helper = Command::new("/proc/self/exe")
        .args(["help", "leave", "leaving"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("Run the helper")?;
    let said = helper.stdout.take().context("The helper's pipe")?;
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    equal("The helper's word", line.trim(), READY)
}

/// The helper `leave BOX`: seals the box and begins to seal another, waits for the reboot, and tries to
/// seal and unseal.
pub(crate) fn leave(name: &str) -> Result<()> {
    let sealed = FdBox::create(name)?;
    let verdict = memfd(c"verdict", PAGE)?;
    // The box shows nobody its memory while it is sealed: this is how the next kernel learns of it.
    sealed.put(verdict.try_clone()?, "verdict")?;
    sealed.seal()?;
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
        // It is at the first of its descriptors when the host leaves.
        probe.tell("seal")?;
        let seal = scope.spawn(|| late.try_seal());
        probe.tell("await")?;
        println!("{READY}");
        std::io::stdout().flush()?;
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
    let text = match tried {
        Ok(()) => GOOD.to_owned(),
        Err(error) => format!("{error:#}\n"),
    };
    verdict.write_all_at(text.as_bytes(), 0)?;
    probe.tell("go")
}

fn try_all(sealed: &FdBox, open: &FdBox) -> Result<()> {
    fails("UNSEAL", sealed.try_unseal(), Errno::AGAIN)?;
    gave_up("SEAL", open.try_seal(), open)?;
    // A box that is open is as it was.
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
    let fdbox = FdBox::open("leaving")?;
    fdbox.unseal()?;
    let mut verdict: File = memory::file(fdbox.get("verdict")?);
    let mut text = String::new();
    verdict.read_to_string(&mut text)?;
    let text = text.trim_end_matches('\0');
    ensure!(text == GOOD, "While the host rebooted: {:?}", text.trim());
    let late = fdbox::listed(LATE)?.is_some();
    equal("The box whose SEAL gave up in the list", late, false)?;
    fdbox.delete()
}
