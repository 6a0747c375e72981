//! A guest that runs in a lifeboat while its host kexecs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::Report;
use rustix::io::Errno;

use super::guest::port;
use super::lifeboat_borrows::retry;
use super::reports::{healthy, same_guest};
use super::{Cx, Scenario};
use crate::boat::{Boat, RUNNING, comes_back, is_kept, of_none, started};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::guest::{Ended, Guest, Spec, VMM};
use crate::memory::{self, PAGE, memfd};
use crate::uapi::{HOLDER_BOAT, HOLDER_OFFERED, LEND_LOOK, LEND_OFFER, LEND_RECALL};
use crate::{boat, host};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "lifeboat/guest",
    about: "a guest goes to the boat, runs on there while the host kexecs, and comes back to the next kernel",
    host: HostKind::LifeboatGuest,
    stages: &[goes, comes],
}];

const CPU: u32 = 1;
const NAME: &str = "afloat";
/// The guest's state in its box.
const STATE: &str = "vm-state";
/// What has to be intact of it: the timeline, and the header of the frame.
const STATE_HEAD: usize = 2 * PAGE as usize;
/// The box in which the boat's VMM leaves the guest, for the boat itself.
const LANDING: &str = "landing";
/// How long the boat may take for one move of the guest: three emulated kernels share two CPUs.
const LIMIT: Duration = Duration::from_secs(120);

fn spec() -> Spec {
    Spec {
        name: NAME,
        ram: "memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: None,
    }
}

/// Waits for a move of the guest.
fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !done()? {
        ensure!(started.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        // There are no wakeups between kernels.
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn holder(fdbox: &FdBox) -> Result<u32> {
    Ok(fdbox.try_lend(LEND_LOOK).context("Ask who has it")?.holder)
}

fn goes(_: &Cx<'_>) -> Result<()> {
    let mut guest = Guest::boot(spec(), &port()?)?;
    healthy(&guest.report()?)?;
    let boat = Boat::open()?;
    let carries = boat::Spec {
        memory_mib: 128,
        ..boat::Spec::new(&format!("help:carry,{NAME}"), &[CPU])
    };
    started(&boat, &carries, 0)?;
    // From now on, gaps are caused by the moves.
    guest.reset_gap()?;
    let before = guest.report()?;
    let (_, status) = guest.hand_over_here()?;
    ensure!(status.success(), "The old VMM ended with {status}");
    let fdbox = FdBox::open(NAME)?;
    fdbox.try_lend(LEND_OFFER).context("Offer the guest")?;
    until("The boat has the guest", || {
        Ok(holder(&fdbox)? == HOLDER_BOAT)
    })?;
    fails("To take it back", fdbox.try_unseal(), Errno::BUSY)?;
    tell_next(&before)
}

fn tell_next(before: &Report) -> Result<()> {
    let mut file = memfd(c"before", 16 * PAGE)?;
    file.write_all(&serde_json::to_vec(before)?)?;
    let fdbox = FdBox::create("before")?;
    fdbox.put(file, "before")?;
    fdbox.seal()
}

fn report_of_last() -> Result<Report> {
    let fdbox = FdBox::open("before")?;
    fdbox.unseal()?;
    let file: File = memory::file(fdbox.get("before")?);
    let mut text = vec![0; 16 * PAGE as usize];
    file.read_exact_at(&mut text, 0)?;
    text.retain(|byte| *byte != 0);
    fdbox.delete()?;
    serde_json::from_slice(&text).context("What the last kernel wrote")
}

fn comes(cx: &Cx<'_>) -> Result<()> {
    let boat = Boat::open()?;
    equal("The state", boat.status()?.state, RUNNING)?;
    is_kept(CPU)?;
    let before = report_of_last()?;
    let fdbox = FdBox::open(NAME)?;
    equal("Who has the guest", holder(&fdbox)?, HOLDER_BOAT)?;
    fails("To recall it", fdbox.try_lend(LEND_RECALL), Errno::BUSY)?;
    until("The guest comes back", || {
        Ok(holder(&fdbox)? == HOLDER_OFFERED)
    })?;
    drop(fdbox);
    let mut guest = Guest::resume(spec(), &port()?)?;
    let report = guest.report()?;
    cx.value("witness", &report)?;
    cx.value("resume of the guest", guest.resume_report()?)?;
    same_guest(&before, &report)?;
    guest.write(77)?;
    healthy(&guest.report()?)?;
    boat.stop()?;
    equal("What is left of the boat", boat.status()?, of_none())?;
    comes_back(CPU)?;
    guest.power_off()
}

/// The helper `carry NAME`, in the boat.
pub(super) fn carry(name: &str) -> Result<()> {
    host::load_module("fdbox")?;
    retry(|| FdBox::try_borrow(name), &[Errno::NOENT, Errno::AGAIN]).context("Borrow the box")?;
    let fdbox = FdBox::open(name)?;
    // The VMM takes the state out of the box, so that nobody else can run the guest.
    let home: File = memory::file(fdbox.get_and_keep(STATE)?);
    let api = format!("/run/{name}/{name}.api");
    let mut vmm = Command::new(VMM)
        .args(["resume", "--box", name, "--api-socket", &api])
        .arg(format!("--console=socket=/run/{name}/{name}.console"))
        .stdin(Stdio::null())
        .spawn()
        .context("Run the VMM")?;
    let mut goes_on = || match vmm.try_wait()? {
        Some(status) => anyhow::bail!("The VMM ended with {status}"),
        None => Ok(()),
    };
    until("The VMM has the guest", || {
        goes_on()?;
        Ok(fdbox.try_get_and_keep(STATE).err() == Some(Errno::NOENT))
    })?;
    // If the boat is lost, the host must not find an old state beside newer memory.
    home.write_all_at(&[0; STATE_HEAD], 0)?;
    until("The host wants the guest back", || {
        goes_on()?;
        Ok(fdbox.try_lend(LEND_LOOK)?.wanted == 1)
    })?;
    let mut leave = Command::new(VMM);
    leave.args(["live-update", "--no-kexec", "--api-socket", &api]);
    Ended::of(leave.args(["--box", LANDING]))?.expect(0)?;
    vmm.wait()?;
    write_home(&home)?;
    fdbox.seal().context("Give the guest back")?;
    fdbox.delete()
}

/// Writes the guest's state to where the host looks for it.
fn write_home(home: &File) -> Result<()> {
    let landing = FdBox::open(LANDING)?;
    landing.unseal()?;
    let mut state: File = memory::file(landing.get(STATE)?);
    equal(
        "The size of the state",
        memory::size(home)?,
        memory::size(&state)?,
    )?;
    let mut bytes = Vec::new();
    state.read_to_end(&mut bytes)?;
    home.write_all_at(&bytes, 0).context("Write the state")?;
    landing.delete()
}
