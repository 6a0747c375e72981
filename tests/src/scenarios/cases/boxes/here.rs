//! Boxes within one kernel.

use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use rustix::fs::fstat;
use rustix::io::Errno;

use crate::cases::Cx;
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::host;
use crate::memory::{self, PAGE, check_pages, memfd, write_pages};
use crate::uapi;

pub(super) fn outlive(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("outlive")?;
    host::in_another_process("put-memfd", &["outlive"])?;
    let entries = fdbox.entries()?;
    equal("The number of descriptors", entries.len(), 1)?;
    equal("The state in the list", entries[0].state, uapi::FD_LIVE)?;
    equal(
        "The kind in the list",
        uapi::text(&entries[0].compatible),
        "fdbox,memfd-v2".into(),
    )?;
    check_pages(&memory::file(fdbox.get("memory")?), 25, 4)?;
    fdbox.delete()
}

/// The helper `put-memfd BOX`: puts a memfd with known content into a box, and exits.
pub(crate) fn put_memfd(name: &str) -> Result<()> {
    let file = memfd(c"helper", 4 * PAGE)?;
    write_pages(&file, 25, 4)?;
    FdBox::open(name)?.put(file, "memory")
}

pub(super) fn inverse(_: &Cx<'_>) -> Result<()> {
    let before = fdbox::info()?;
    let fdbox = FdBox::create("inverse")?;
    let file = memfd(c"inverse", 64 * PAGE)?;
    write_pages(&file, 26, 64)?;
    let kept = file.try_clone()?;
    fdbox.put(file, "memory")?;
    for _ in 0..20 {
        fdbox.seal()?;
        let sealed = fdbox::info()?;
        ensure!(
            sealed.handover_pages >= before.handover_pages + 64,
            "The handover keeps {} pages, {} before",
            sealed.handover_pages,
            before.handover_pages
        );
        fdbox.unseal()?;
        let open = fdbox::info()?;
        let created = uapi::Info {
            boxes: before.boxes + 1,
            ..before
        };
        equal("The module's figures", open, created)?;
    }
    let taken = memory::file(fdbox.get("memory")?);
    equal("The file taken out", inode(&taken)?, inode(&kept)?)?;
    check_pages(&taken, 26, 64)?;
    rustix::fs::ftruncate(&taken, PAGE)?;
    fdbox.delete()?;
    equal("The number of boxes", fdbox::info()?.boxes, before.boxes)
}

fn inode(file: &File) -> Result<u64> {
    Ok(fstat(file)?.st_ino)
}

pub(super) fn all_or_nothing(_: &Cx<'_>) -> Result<()> {
    let shared = memfd(c"shared", PAGE)?;
    let (first, second) = (FdBox::create("all-1")?, FdBox::create("all-2")?);
    first.put(shared.try_clone()?, "shared")?;
    first.seal()?;

    let own = memfd(c"own", PAGE)?;
    second.put(own.try_clone()?, "own")?;
    second.put(shared, "the-shared-one")?;
    let before = fdbox::info()?;
    fails(
        "SEAL with a file that another sealed box holds",
        second.try_seal(),
        Errno::BUSY,
    )?;
    let why = second.seal_error()?;
    equal(
        "The descriptor named",
        why.name.text(),
        "the-shared-one".into(),
    )?;
    equal("The reason", why.reason, uapi::REASON_SHARED_FILE)?;
    equal("The errno", why.error, Errno::BUSY.raw_os_error())?;
    ensure!(!uapi::text(&why.message).is_empty(), "No message");
    equal("What the handover keeps", fdbox::info()?, before)?;
    // The descriptor before it is unchanged: not frozen, and still in an open box.
    rustix::fs::ftruncate(&own, 2 * PAGE)?;
    let taken: OwnedFd = second.get("the-shared-one")?;
    second.seal()?;
    fails(
        "SEAL_ERROR after a SEAL that worked",
        second.seal_error().map(drop),
        Errno::NOENT,
    )?;
    drop(taken);
    for fdbox in [first, second] {
        fdbox.unseal()?;
        fdbox.delete()?;
    }
    Ok(())
}

pub(super) fn without_kho(_: &Cx<'_>) -> Result<()> {
    let features = fdbox::info()?.features;
    equal("The feature KHO", features & uapi::FEATURE_KHO, 0)?;
    let fdbox = FdBox::create("without-kho")?;
    host::in_another_process("put-memfd", &["without-kho"])?;
    fdbox.seal()?;
    fails(
        "GET_FD from a sealed box",
        fdbox.try_get("memory"),
        Errno::BUSY,
    )?;
    equal("What the handover keeps", fdbox::info()?.handover_pages, 0)?;
    fdbox.unseal()?;
    check_pages(&memory::file(fdbox.get("memory")?), 25, 4)?;
    fdbox.delete()
}

pub(super) fn many(_: &Cx<'_>) -> Result<()> {
    const MANY: usize = 2000;
    let name = |number: usize| format!("many-{number}");
    let listed = || -> Result<Vec<String>> {
        let names = fdbox::boxes()?.into_iter().map(|each| each.name.text());
        Ok(names.filter(|name| name.starts_with("many-")).collect())
    };
    for number in 0..MANY {
        FdBox::create(&name(number))?;
    }
    let mut expected: Vec<String> = (0..MANY).map(name).collect();
    equal("The list of all boxes", listed()?, expected.clone())?;
    // One from the front, the middle and the end, so that each is found among the remaining ones.
    for at in [0, MANY / 2, MANY - 3] {
        let gone = expected.remove(at);
        FdBox::open(&gone)?.delete()?;
        fails(
            "CREATE_BOX of a name that is taken",
            FdBox::try_create(&expected[at - at / 2]),
            Errno::EXIST,
        )?;
        FdBox::create(&gone)?;
        expected.push(gone);
        equal(
            "The list after one was made anew",
            listed()?,
            expected.clone(),
        )?;
    }
    for name in expected {
        FdBox::open(&name)?.delete()?;
    }
    equal("The list of no boxes", listed()?, Vec::new())
}

/// More than fit into a single allocation of the kernel.
const DESCRIPTORS: usize = 33_000;

pub(super) fn many_descriptors(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("descriptors")?;
    for number in 0..DESCRIPTORS {
        fdbox.put(memfd(c"empty", 0)?, &number.to_string())?;
    }
    fdbox.seal()?;
    fdbox.unseal()?;
    let names: Vec<String> = fdbox
        .entries()?
        .into_iter()
        .map(|entry| entry.name.text())
        .collect();
    let expected: Vec<String> = (0..DESCRIPTORS).map(|number| number.to_string()).collect();
    ensure!(names == expected, "The list has other names");
    fails(
        "PUT_FD of a name that is taken",
        fdbox
            .try_put(memfd(c"empty", 0)?.into(), "16500")
            .map_err(|(error, _)| error),
        Errno::EXIST,
    )?;
    // One from the front, the middle and the end.
    for number in [0, DESCRIPTORS / 2, DESCRIPTORS - 1] {
        drop(fdbox.get(&number.to_string())?);
        fails(
            "GET_FD of what was taken out",
            fdbox.try_get(&number.to_string()),
            Errno::NOENT,
        )?;
    }
    fdbox.delete()
}
