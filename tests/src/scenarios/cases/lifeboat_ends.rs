//! Guests that reset or switch themselves off in a lifeboat, which has nothing to boot them from.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::command;
use serde_json::json;

use super::guest::port;
use super::lifeboat_meeting::Meeting;
use super::lifeboat_update::{boot, go_with, guests_in_boat, is_over, with_devices};
use super::reports::healthy;
use super::{Cx, Scenario};
use crate::boat::{Boat, RUNNING};
use crate::check::equal;
use crate::fdbox::{self, FdBox};
use crate::guest::{Ended, Guest, INITRAMFS, KERNEL, VMM, Watch};
use crate::host;
use crate::memory::{self, memfd};
use crate::network::Links;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "lifeboat/reset",
        about: "a guest that resets itself in the boat boots again when it is home",
        host: HostKind::GuestLifeboatAstray,
        stages: &[leaves_and_resets, boots_at_home],
    },
    &Scenario {
        name: "lifeboat/switched-off",
        about: "a guest that switches itself off in the boat ends when it is home",
        host: HostKind::GuestLifeboatAstray,
        stages: &[leaves_and_ends, ends_at_home],
    },
];

/// The box with what the guest boots from.
const FILES: &str = "files";
const BOOT_ID: &str = "boot_id";
const BOOT_FILES: [(&str, &str); 2] = [("kernel", KERNEL), ("initramfs", INITRAMFS)];
/// The guests' sockets in the boat.
const FOLDER: &str = "/run/vmm-example";

/// Updates the host under a guest that is told this in the boat. Returns only on failure.
fn leave_and_be_told(guest: &Guest, what: &str) -> Result<()> {
    go_with(
        guest,
        &format!("carry-and-tell:aboard lab.guest-is-told={what}"),
    )
}

fn boot_at_work() -> Result<Guest> {
    let mut guest = boot(with_devices())?;
    guest.console.wait_for_io(None)?;
    Ok(guest)
}

/// The helper `tell-guest COMMAND`, in the boat: returns when the guest has done what is its end elsewhere.
pub(super) fn tell_guest(what: &str) -> Result<()> {
    let spec = with_devices();
    let socket = |ending: &str| -> PathBuf {
        let name = spec.name;
        Path::new(FOLDER)
            .join(name)
            .join(format!("{name}.{ending}"))
    };
    let mut watch = Watch::start(&socket("sock"))?;
    let mut console = UnixStream::connect(socket("console")).context("The guest's console")?;
    writeln!(console, "{what}")?;
    watch.until("waits-to-be-home", None)?;
    Ok(())
}

/// The next host, when the guest has done it.
fn arrive() -> Result<Boat> {
    let boat = Boat::open()?;
    equal("The state", boat.status()?.state, RUNNING)?;
    equal(
        "The guests in it",
        guests_in_boat()?,
        json!([with_devices().name]),
    )?;
    Meeting::wait()?.end()?;
    Ok(boat)
}

/// Hands over what the guest boots from, because the next host has no disk, and its boot_id.
fn keep_boot_files(boot_id: &str) -> Result<()> {
    let fdbox = FdBox::create(FILES)?;
    let file = memfd(c"boot_id", 0)?;
    (&file).write_all(boot_id.as_bytes())?;
    fdbox.put(file, BOOT_ID)?;
    for (name, path) in BOOT_FILES {
        let file = memfd(c"boot", 0)?;
        io::copy(&mut File::open(path)?, &mut &file)?;
        fdbox.put(file, name)?;
    }
    fdbox.seal()
}

/// Returns the boot_id.
fn restore_boot_files() -> Result<String> {
    let fdbox = FdBox::open(FILES)?;
    fdbox.unseal()?;
    for (name, path) in BOOT_FILES {
        let mut file = memory::file(fdbox.get(name)?);
        file.rewind()?;
        fs::create_dir_all(Path::new(path).parent().context("A folder")?)?;
        io::copy(&mut file, &mut File::create(path)?)?;
    }
    let mut boot_id = String::new();
    let mut file = memory::file(fdbox.get(BOOT_ID)?);
    file.rewind()?;
    file.read_to_string(&mut boot_id)?;
    fdbox.delete()?;
    Ok(boot_id)
}

fn leaves_and_resets(_: &Cx<'_>) -> Result<()> {
    let mut guest = boot_at_work()?;
    keep_boot_files(&guest.report()?.boot_id)?;
    leave_and_be_told(&guest, command::RESET)
}

fn boots_at_home(_: &Cx<'_>) -> Result<()> {
    let boat = arrive()?;
    let boot_id = restore_boot_files()?;
    let spec = with_devices();
    let links = spec.number.map(Links::by_name).transpose()?;
    let mut guest = Guest::resume_with(spec, links.as_ref(), &port()?)?;
    let report = guest.report()?;
    healthy(&report)?;
    ensure!(report.boot_id != boot_id, "The guest did not boot again");
    is_over(&boat, "0-1")?;
    // Its connection ended with its last boot, and nobody outside opens another.
    let written = guest.console.io()?.disk.writes;
    host::until("The guest writes to its disk", || {
        let disk = guest.console.io()?.disk;
        ensure!(disk.bad == 0, "The guest's disk is wrong: {disk:?}");
        Ok(disk.writes > written)
    })
    // It is killed while it writes: a guest that powers off then reports errors of its disk.
}

fn leaves_and_ends(_: &Cx<'_>) -> Result<()> {
    leave_and_be_told(&boot_at_work()?, command::POWER_OFF)
}

fn ends_at_home(_: &Cx<'_>) -> Result<()> {
    let boat = arrive()?;
    let spec = with_devices();
    // Its disk and its card are opened before it turns out that they are not needed.
    let _links = spec.number.map(Links::by_name).transpose()?;
    let mut resume = Command::new(VMM);
    resume
        .args(["resume", "--box", spec.name, "--api-socket"])
        .arg(spec.api());
    let ended = Ended::of(&mut resume)?;
    ended.expect(0)?;
    ensure!(
        !ended.text.contains("is lost"),
        "A guest that ended by itself is not lost: {}",
        ended.text
    );
    equal("A box", fdbox::listed(spec.name)?.is_some(), false)?;
    is_over(&boat, "0-1")
}
