//! Invalid handovers: each is refused with a message in the log, and has no other effect.
//!
//! The module `fdbox_forge` leaves them for the next kernel.

use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario, Stage};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::memory::{self, PAGE, check_pages, memfd, write_pages};
use crate::{host, uapi};

const FORGE: &str = "fdbox_forge";

/// A scenario for one kind of invalid handover.
const fn wrong(name: &'static str, about: &'static str, stages: &'static [Stage]) -> Scenario {
    Scenario {
        name,
        about,
        host: HostKind::Forged,
        stages,
    }
}

pub(super) const ALL: &[&Scenario] = &[
    &wrong(
        "forged/none",
        "a handover written from the ABI's description is taken",
        &[|_| forge("none"), taken],
    ),
    &wrong(
        "forged/magic",
        "another magic is refused",
        &[|_| forge("magic"), |_| refused("not an fdbox handover")],
    ),
    &wrong(
        "forged/root-short",
        "a root that is cut off is refused",
        &[|_| forge("root-short"), |_| refused("truncated")],
    ),
    &wrong(
        "forged/body-short",
        "a body with less in it than the root says is refused",
        &[|_| forge("body-short"), |_| refused("truncated")],
    ),
    &wrong(
        "forged/box-twice",
        "two boxes of one name are refused",
        &[|_| forge("box-twice"), |_| refused("impossible name")],
    ),
    &wrong(
        "forged/fd-twice",
        "two descriptors of one name in a box are refused",
        &[|_| forge("fd-twice"), |_| refused("impossible name")],
    ),
    &wrong(
        "forged/root",
        "a root whose checksum is wrong is refused",
        &[|_| forge("root"), |_| refused("root checksum mismatch")],
    ),
    &wrong(
        "forged/body",
        "a body whose checksum is wrong is refused",
        &[|_| forge("body"), |_| refused("body checksum mismatch")],
    ),
    &wrong(
        "forged/extent",
        "an extent that cannot be is refused",
        &[|_| forge("extent"), |_| refused("impossible page extents")],
    ),
    &wrong(
        "forged/name",
        "a name that is none is refused",
        &[|_| forge("name"), |_| refused("impossible name")],
    ),
    &wrong(
        "forged/trailing",
        "bytes too many are refused",
        &[
            |_| forge("trailing"),
            |_| refused("bytes that belong to nothing"),
        ],
    ),
    &wrong(
        "forged/version",
        "a newer version is kept, and goes through this kernel to the next",
        &[|_| forge("version"), kept, verified],
    ),
    &wrong(
        "forged/no-room",
        "boxes that cannot be created go through this kernel to the next, and a module that is loaded again \
         creates them",
        &[|_| forge("none"), no_room, no_room_at_first],
    ),
    &wrong(
        "forged/records",
        "what the kinds saved is wrong: UNSEAL names each; salvaged, one beside them is whole, and they are EIO",
        &[|_| forge("records"), not_restored],
    ),
    &wrong(
        "forged/blocks",
        "memory that KHO kept in other blocks than this module would is taken all the same",
        &[|_| forge("blocks"), other_blocks],
    ),
    &wrong(
        "forged/carried",
        "a box with memory that nobody kept does not go on to another kernel; one beside it does",
        &[|_| forge("carried"), not_carried, beside],
    ),
];

fn forge(how: &str) -> Result<()> {
    host::load_module_with(FORGE, &format!("how={how}"))
}

fn taken(_: &Cx<'_>) -> Result<()> {
    host::load_module("fdbox")?;
    equal(
        "The feature REFUSED",
        fdbox::info()?.features & uapi::FEATURE_REFUSED,
        0,
    )?;
    let fdbox = FdBox::open("forged")?;
    let entries = fdbox.entries()?;
    equal("The number of descriptors", entries.len(), 1)?;
    equal("The descriptor's state", entries[0].state, uapi::FD_UNKNOWN)?;
    equal(
        "The descriptor's name",
        entries[0].name.text(),
        "fd".to_owned(),
    )?;
    fails(
        "UNSEAL with a kind that nobody serves",
        fdbox.try_unseal(),
        Errno::NODATA,
    )?;
    let lost = vec![("fd".to_owned(), uapi::LOST_UNKNOWN_KIND)];
    equal("What is lost", fdbox.lost()?, lost)?;
    equal("How much is lost", fdbox.try_salvage()?, 1)?;
    fails(
        "GET_FD of a kind that nobody serves",
        fdbox.try_get("fd"),
        Errno::OPNOTSUPP,
    )?;
    fdbox.delete()
}

/// The handover is refused, and the kernel log gives the reason `why`.
fn refused(why: &str) -> Result<()> {
    host::load_module("fdbox")?;
    let info = fdbox::info()?;
    ensure!(
        info.features & uapi::FEATURE_REFUSED != 0,
        "The handover was not refused"
    );
    equal("The number of boxes", info.boxes, 0)?;
    let log = host::kernel_log()?;
    let says = |line: &String| line.contains("handover") && line.contains(why);
    ensure!(
        log.iter().any(says),
        "No line of the log says {why:?}: {log:?}"
    );
    // The module is usable nevertheless.
    let fdbox = FdBox::create("after-a-refusal")?;
    fdbox.put(memfd(c"after", PAGE)?, "memory")?;
    fdbox.get("memory")?;
    fdbox.delete()
}

/// The handover is on its way to a kernel that can read it: this kernel cannot hand over boxes of
/// its own.
fn kept(_: &Cx<'_>) -> Result<()> {
    refused("it is kept")?;
    // Another module may be able to read it.
    host::unload_module("fdbox").context("Unload the module")?;
    refused("it is kept")?;
    let fdbox = FdBox::create("in-the-way")?;
    fails(
        "SEAL beside another version's handover",
        fdbox.try_seal(),
        Errno::AGAIN,
    )?;
    let why = fdbox.seal_error()?;
    equal("The errno", why.error, Errno::AGAIN.raw_os_error())?;
    equal("The descriptor named", why.name.text(), String::new())?;
    let message = uapi::text(&why.message);
    ensure!(
        message.contains("another version"),
        "The message is: {message}"
    );
    fdbox.delete()
}

/// The module is loaded twice, each time without room for the box.
fn no_room(_: &Cx<'_>) -> Result<()> {
    for attempt in ["the first", "the second"] {
        host::load_module_with("fdbox", "max_boxes=0")?;
        let info = fdbox::info()?;
        equal("The number of boxes", info.boxes, 0)?;
        ensure!(
            info.features & uapi::FEATURE_REFUSED != 0,
            "Not refused, {attempt} time"
        );
        let log = host::kernel_log()?;
        ensure!(
            log.iter().any(|line| line.contains("they are kept")),
            "The log does not say so: {log:?}"
        );
        if attempt == "the first" {
            host::unload_module("fdbox").context("Unload the module")?;
        }
    }
    Ok(())
}

fn no_room_at_first(cx: &Cx<'_>) -> Result<()> {
    no_room(cx)?;
    host::unload_module("fdbox").context("Unload the module")?;
    taken(cx)
}

fn verified(_: &Cx<'_>) -> Result<()> {
    forge("verify")
}

/// The descriptors created by `fdbox_forge` that cannot be restored, and why each is lost.
const RECORDS: [(&str, u32); 17] = [
    ("memfd-short", uapi::LOST_DATA),
    ("memfd-name", uapi::LOST_DATA),
    ("memfd-few", uapi::LOST_DATA),
    ("memfd-twice", uapi::LOST_MEMORY),
    ("memfd-nowhere", uapi::LOST_MEMORY),
    ("memfd-in-use", uapi::LOST_MEMORY),
    ("memfd-order", uapi::LOST_MEMORY),
    ("vm-short", uapi::LOST_DATA),
    ("vm-machine", uapi::LOST_DATA),
    ("guest-short", uapi::LOST_DATA),
    ("guest-name", uapi::LOST_DATA),
    ("guest-few", uapi::LOST_DATA),
    ("guest-alone", uapi::LOST_DEPENDENCY),
    ("huge-short", uapi::LOST_DATA),
    ("huge-order", uapi::LOST_DATA),
    ("huge-few", uapi::LOST_DATA),
    (NO_SUCH_PAGES, uapi::LOST_UNKNOWN_KIND),
];
/// It is in huge pages of a size that no x86-64 has.
const NO_SUCH_PAGES: &str = "huge-size";
/// And an intact one next to them.
const GOOD: &str = "memfd-good";

/// The errno of a descriptor that cannot be restored.
fn errno(name: &str) -> Errno {
    match name == NO_SUCH_PAGES {
        true => Errno::OPNOTSUPP,
        false => Errno::IO,
    }
}

fn not_restored(_: &Cx<'_>) -> Result<()> {
    host::load_module("fdbox")?;
    let fdbox = FdBox::open("forged")?;
    let listed = || -> Result<Vec<(String, u32)>> {
        let entries = fdbox.entries()?.into_iter();
        Ok(entries
            .map(|entry| (entry.name.text(), entry.state))
            .collect())
    };
    let all = RECORDS.map(|(name, _)| name).into_iter().chain([GOOD]);
    let all: Vec<_> = all
        .map(|name| (name.to_owned(), uapi::FD_INCOMING))
        .collect();
    equal("The list", listed()?, all.clone())?;
    let lost = RECORDS.map(|(name, reason)| (name.to_owned(), reason));
    for attempt in ["the first", "the second"] {
        let what = format!("UNSEAL, {attempt} time");
        fails(&what, fdbox.try_unseal(), Errno::NODATA)?;
        equal("What is lost", fdbox.lost()?, lost.to_vec())?;
        fails("GET_FD of what is whole", fdbox.try_get(GOOD), Errno::BUSY)?;
    }
    equal("The list of the sealed box", listed()?, all)?;
    for lost in fdbox.whole_lost()? {
        let (name, message) = (lost.name.text(), uapi::text(&lost.message));
        equal("The errno", lost.error, errno(&name).raw_os_error())?;
        ensure!(!message.is_empty(), "No message for {name}");
        ensure!(
            name != NO_SUCH_PAGES || message.contains("no huge pages of 8 KiB"),
            "The message is: {message}"
        );
    }

    let count = fdbox.try_salvage()?;
    equal("How many are lost", count, RECORDS.len() as u64)?;
    memory::check_size(memory::file(fdbox.get(GOOD)?), PAGE)?;
    for (name, _) in RECORDS {
        for attempt in ["the first", "the second"] {
            let what = format!("GET_FD of {name}, {attempt} time");
            fails(&what, fdbox.try_get(name), errno(name))?;
        }
    }
    let left = RECORDS.map(|(name, _)| (name.to_owned(), uapi::FD_INCOMING));
    equal("The list afterwards", listed()?, left.to_vec())?;
    equal("What is still lost", fdbox.lost()?, lost.to_vec())?;
    fdbox.delete()
}

fn other_blocks(_: &Cx<'_>) -> Result<()> {
    host::load_module("fdbox")?;
    let fdbox = FdBox::open("forged")?;
    fdbox.unseal()?;
    let file = memory::file(fdbox.get("memory")?);
    memory::check_size(&file, 2 * PAGE)?;
    let mut content = vec![0; 2 * PAGE as usize];
    file.read_exact_at(&mut content, 0)?;
    // The data written by fdbox_forge.
    ensure!(
        content.iter().all(|byte| *byte == 0x5a),
        "The memory is not what was left"
    );
    // Every block was consumed, not only the first.
    fails(
        "GET_FD of memory that was given out",
        fdbox.try_get("again"),
        Errno::IO,
    )?;
    fdbox.delete()
}

fn not_carried(_: &Cx<'_>) -> Result<()> {
    host::load_module("fdbox")?;
    let listed = fdbox::listed("forged")?;
    equal(
        "The box in the list",
        listed.map(|listed| listed.state),
        Some(uapi::STATE_SEALED),
    )?;
    let fdbox = FdBox::create("beside")?;
    let file = memfd(c"beside", 4 * PAGE)?;
    write_pages(&file, 64, 4)?;
    fdbox.put(file, "memory")?;
    fdbox.seal()
}

fn beside(_: &Cx<'_>) -> Result<()> {
    host::load_module("fdbox")?;
    equal("The number of boxes", fdbox::info()?.boxes, 1)?;
    let fdbox = FdBox::open("beside")?;
    fdbox.unseal()?;
    check_pages(&memory::file(fdbox.get("memory")?), 64, 4)?;
    fdbox.delete()
}
