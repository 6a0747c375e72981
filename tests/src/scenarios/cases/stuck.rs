//! A guest whose network and whose second console lead to where nobody takes anything.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::{WitnessEvent, command};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat, open};
use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::json;

use super::guest::port;
use super::reports::{healthy, same_guest};
use super::upgrade::blackout;
use super::{Cx, Scenario};
use crate::check::equal;
use crate::console::Console;
use crate::guest::{Guest, Spec, VMM};
use crate::network::{Links, stuck};
use crate::report::{never_paused, phase};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "devices/stuck",
    about: "a network and a console's file that take nothing hold up no update",
    host: HostKind::GuestOneBoot,
    stages: &[one],
}];

/// What the second console leads to, and how much that holds.
const FIFO: &str = "/run/stuck-hvc";
const FIFO_BYTES: usize = 4096;
/// The bytes that the guest writes there: a little more, since its driver waits for every 16 of them with its only
/// CPU. And then, when there is room again.
const WRITTEN: usize = FIFO_BYTES + MORE;
const MORE: usize = 512;
/// On a slow machine the guest sends hardly faster than its VMM takes, and the ring is seldom full.
const LIMIT: Duration = Duration::from_secs(300);
/// A time in which the file takes nothing, in seconds; and one in which it does.
const SHORT: &str = "1";
const LONG: &str = "60";

fn one(cx: &Cx<'_>) -> Result<()> {
    mknodat(CWD, FIFO, FileType::Fifo, Mode::RWXU, 0)?;
    let mut reader = File::from(open(
        FIFO,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    fcntl_setpipe_size(&reader, FIFO_BYTES)?;
    fcntl_setfl(&reader, fcntl_getfl(&reader)? & !OFlags::NONBLOCK)?;
    let spec = Spec {
        name: "stuck",
        ram: "guest_memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: Some(0),
    };
    let links = Links::by_name(0)?;
    let file = [format!("--hvc=file={FIFO}")];
    let mut guest = Guest::boot_by(&mut Command::new(VMM), spec, Some(&links), &file, &port()?)?;
    let before = guest.report()?;
    healthy(&before)?;
    have_writers_wait(&guest, Path::new(FIFO))?;
    console(&mut guest, &mut reader)?;
    network(cx, &mut guest)?;
    same_guest(&before, &guest.report()?)?;
    guest.runner()?.kill()?;
    fs::remove_file(FIFO)?;
    Ok(())
}

/// A file of a VMM's, which writes to it without waiting, is one from now on that it waits for: as a file system
/// does that hangs.
fn have_writers_wait(guest: &Guest, path: &Path) -> Result<()> {
    let pid = guest.runner_pid()?;
    let process = pidfd_open(
        Pid::from_raw(pid).context("A process")?,
        PidfdFlags::empty(),
    )?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        if fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let number = entry.file_name().to_string_lossy().parse()?;
            let file = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
            fcntl_setfl(&file, fcntl_getfl(&file)? & !OFlags::NONBLOCK)?;
            return Ok(());
        }
    }
    bail!("The VMM does not have {} open", path.display())
}

/// The file is full: an update waits for it within its limit and no longer, and the guest does not stand still.
fn console(guest: &mut Guest, reader: &mut File) -> Result<()> {
    guest.tell(&format!("{} {WRITTEN}", command::SPEAK))?;
    let deadline = Instant::now() + LIMIT;
    while ioctl_fionread(&*reader)? < FIFO_BYTES as u64 {
        ensure!(Instant::now() < deadline, "The guest says too little");
        std::thread::sleep(Duration::from_millis(20));
    }
    let old = guest.runner_pid()?;
    let short = guest.upgrade(VMM, &["--json", "--pause-timeout", SHORT])?;
    short.expect(11)?;
    ensure!(short.text.contains("console0 has"), "{}", short.text);
    never_paused(&short.text)?;
    equal("The VMM", guest.runner_pid()?, old)?;
    hear(reader, WRITTEN)?;
    guest.wait_for_beat()?;
    guest.upgrade(VMM, &["--pause-timeout", LONG])?.expect(0)?;
    guest.tell(&format!("{} {MORE}", command::SPEAK))?;
    hear(reader, MORE)
}

fn hear(reader: &mut File, bytes: usize) -> Result<()> {
    let mut heard = vec![0; bytes];
    reader.read_exact(&mut heard)?;
    let written = (0..=u8::MAX).cycle().take(bytes);
    ensure!(written.eq(heard), "The guest wrote something else");
    Ok(())
}

/// The card's ring is full, and so is all that is between it and the one who takes nothing.
fn network(cx: &Cx<'_>, guest: &mut Guest) -> Result<()> {
    let _never_read = stuck()?;
    let before = fill(&mut guest.console, 0)?;
    guest.upgrade(VMM, &["--pause-timeout", LONG])?.expect(0)?;
    let report = guest.resume_report()?;
    let value = json!({
        "quiesce_ns": phase(&report, "before", "quiesce")?,
        "pause_ns": phase(&report, "blackout", "pause")?,
        "blackout_ns": blackout(&report)?,
    });
    println!("{value}");
    cx.value("stuck network", value)?;
    let after = fill(&mut guest.console, 0)?;
    ensure!(after > before, "It sends no more: {before}, then {after}");
    Ok(())
}

/// Has guest `number` send until there is room for no more, and tells how much it has sent.
pub(super) fn fill(console: &mut Console, number: u8) -> Result<u64> {
    let sent = |console: &mut Console| -> Result<(u64, u64)> {
        console.say(&format!("{} {number}", command::SEND))?;
        console.wait("datagrams", LIMIT, |event| match event {
            WitnessEvent::Sent { datagrams, full } => Some((datagrams, full)),
            _ => None,
        })
    };
    let (before, was_full) = sent(console)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let (datagrams, full) = sent(console)?;
        if datagrams > before && full > was_full {
            return Ok(datagrams);
        }
        ensure!(
            Instant::now() < deadline,
            "{datagrams} datagrams, {full} times full"
        );
    }
}
