//! A host on its way into the next kernel: what goes over is settled.
//!
//! The module `fdbox_probe` holds the reboot up, after fdbox.ko has heard of it; a helper of this program
//! tries then what the scenario is about, and tells the next kernel how that went.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::memory::{self, PAGE, memfd, write_page};
use crate::{host, uapi};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "leaving/seal-and-unseal",
    about: "EAGAIN: while the host reboots no box is sealed or unsealed; a sealed one arrives",
    host: HostKind::Kexec,
    stages: &[before, after],
}];

/// What the helper writes when all is as it should be.
const GOOD: &str = "good\n";
/// What the helper says when the reboot may begin.
const READY: &str = "ready";

fn before(_: &Cx<'_>) -> Result<()> {
    host::load_module("fdbox_probe")?;
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

/// The helper `leave BOX`: seals the box, waits for the reboot, and tries to seal and unseal.
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

    let mut probe = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fdbox_probe")?;
    probe.write_all(b"hold")?;
    println!("{READY}");
    std::io::stdout().flush()?;
    // Returns when the reboot has begun.
    probe.read_exact(&mut [0])?;
    let text = match try_all(&sealed, &open) {
        Ok(()) => GOOD.to_owned(),
        Err(error) => format!("{error:#}\n"),
    };
    verdict.write_all_at(text.as_bytes(), 0)?;
    Ok(probe.write_all(b"go")?)
}

fn try_all(sealed: &FdBox, open: &FdBox) -> Result<()> {
    fails("UNSEAL", sealed.try_unseal(), Errno::AGAIN)?;
    fails("SEAL", open.try_seal(), Errno::AGAIN)?;
    let message = uapi::text(&open.seal_error()?.message);
    ensure!(
        message.contains("on its way into the next kernel"),
        "The message of SEAL is: {message}"
    );
    // A box that is open is as it was.
    drop(open.get("memory")?);
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
    fdbox.delete()
}
