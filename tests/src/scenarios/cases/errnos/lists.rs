//! Errnos of the ioctls that return information.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::super::Cx;
use super::{NOWHERE, ON_CONTROL, needs_cap_sys_admin, refuses_nowhere_last};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::memory::{PAGE, memfd};
use crate::uapi;

/// The errors of every growable struct. `bytes` is a valid argument, `size` its first field.
pub(super) fn refuses_bad_growable(
    what: &str,
    node: BorrowedFd<'_>,
    command: u32,
    size: u32,
) -> Result<()> {
    fails(
        &format!("{what} at no address"),
        uapi::call_plain(node, command, NOWHERE),
        Errno::FAULT,
    )?;
    let call = |size: u32, flags: u32, tail: u8| {
        uapi::call(node, command, &mut uapi::Bytes::growable(size, flags, tail))
    };
    for wrong in [0, 1, 7, size - 1, MOST + 1, MOST + 8] {
        fails(
            &format!("{what} of {wrong} bytes"),
            call(wrong, 0, 0),
            Errno::INVAL,
        )?;
    }
    fails(
        &format!("{what} with a flag"),
        call(size, 1, 0),
        Errno::INVAL,
    )?;
    fails(
        &format!("{what} with a tail that is not zero"),
        call(size + 8, 0, 1),
        Errno::TOOBIG,
    )?;
    for large in [size + 8, MOST] {
        // It takes effect, and must not be called twice.
        if command == uapi::SALVAGE {
            break;
        }
        let larger = call(large, 0, 0);
        ensure!(
            matches!(larger, Ok(_) | Err(Errno::NOENT)),
            "{what} with a tail of zeros, of {large} bytes: {larger:?}"
        );
    }
    if ON_CONTROL.contains(&command) {
        needs_cap_sys_admin(what, || call(size, 0, 0))?;
    }
    refuses_nowhere_last(what, node, command)?;
    fails(
        &format!("{what} that is too small, with a flag and a tail that is not zero"),
        call(size - 1, 1, 1),
        Errno::INVAL,
    )?;
    fails(
        &format!("{what} with a flag and a tail that is not zero"),
        call(size + 8, 1, 1),
        Errno::TOOBIG,
    )
}

/// The maximum size of a growable struct.
const MOST: u32 = 4096;

/// A command that returns information, with an argument that it cannot write to.
fn needs_room<T: uapi::Plain>(what: &str, node: impl AsFd, command: u32, good: T) -> Result<()> {
    let mut writable = good;
    uapi::call(&node, command, &mut writable).with_context(|| what.to_owned())?;
    let result = uapi::call_read_only(&node, command, &good)?;
    fails(
        &format!("{what} with memory that cannot be written"),
        result,
        Errno::FAULT,
    )
}

pub(super) fn lists(_: &Cx<'_>) -> Result<()> {
    let control = fdbox::control()?;
    let size = size_of::<uapi::Info>() as u32;
    refuses_bad_growable("INFO", control.as_fd(), uapi::INFO, size)?;
    equal("The version of the UAPI", fdbox::info()?.uapi_version, 1)?;
    let info = uapi::Info {
        size,
        ..uapi::Info::default()
    };
    needs_room("INFO", &control, uapi::INFO, info)?;
    let size = size_of::<uapi::NextBox>() as u32;
    refuses_bad_growable("NEXT_BOX", control.as_fd(), uapi::NEXT_BOX, size)?;
    let mut past = fdbox::next_box(u64::MAX);
    fails(
        "NEXT_BOX past the end",
        uapi::call(&control, uapi::NEXT_BOX, &mut past),
        Errno::NOENT,
    )?;

    let fdbox = FdBox::create("errno-lists")?;
    needs_room("NEXT_BOX", &control, uapi::NEXT_BOX, fdbox::next_box(0))?;
    fails(
        "NEXT_BOX past the end with memory that cannot be written",
        uapi::call_read_only(&control, uapi::NEXT_BOX, &fdbox::next_box(u64::MAX))?,
        Errno::NOENT,
    )?;
    let size = size_of::<uapi::NextFd>() as u32;
    refuses_bad_growable("NEXT_FD", fdbox.as_fd(), uapi::NEXT_FD, size)?;
    fails("NEXT_FD of an empty box", next_fd(&fdbox, 0), Errno::NOENT)?;
    let mut padded = fdbox::next_fd(0);
    padded.pad = 1;
    fails(
        "NEXT_FD with pad set",
        uapi::call(&fdbox, uapi::NEXT_FD, &mut padded),
        Errno::INVAL,
    )?;
    fdbox.put(memfd(c"errno", PAGE)?, "memory")?;
    needs_room("NEXT_FD", &fdbox, uapi::NEXT_FD, fdbox::next_fd(0))?;
    fails(
        "NEXT_FD past the end",
        next_fd(&fdbox, u64::MAX),
        Errno::NOENT,
    )?;
    let size = size_of::<uapi::SealError>() as u32;
    refuses_bad_growable("SEAL_ERROR", fdbox.as_fd(), uapi::SEAL_ERROR, size)?;
    fails(
        "SEAL_ERROR of a box never sealed",
        fdbox.seal_error().map(drop),
        Errno::NOENT,
    )?;
    let size = size_of::<uapi::NextLost>() as u32;
    refuses_bad_growable("NEXT_LOST", fdbox.as_fd(), uapi::NEXT_LOST, size)?;
    equal(
        "What is lost of a box never sealed",
        fdbox.lost()?,
        Vec::new(),
    )?;
    two_names(&fdbox)?;
    fdbox.delete()?;
    fails("NEXT_FD of a deleted box", next_fd(&fdbox, 0), Errno::NODEV)?;
    fails(
        "NEXT_LOST of a deleted box",
        fdbox.lost().map(drop),
        Errno::NODEV,
    )?;
    fails(
        "SEAL_ERROR of a deleted box",
        fdbox.seal_error().map(drop),
        Errno::NODEV,
    )
}

/// One file under two names in one box: SEAL_ERROR then has an error to return.
fn two_names(fdbox: &FdBox) -> Result<()> {
    let file = memfd(c"errno", PAGE)?;
    fdbox.put(file.try_clone()?, "first-name")?;
    fdbox.put(file.try_clone()?, "second-name")?;
    let before = fdbox::info()?;
    fails(
        "SEAL of a file under two names",
        fdbox.try_seal(),
        Errno::BUSY,
    )?;
    let why = fdbox.seal_error()?;
    equal("The descriptor", why.name.text(), "second-name".to_owned())?;
    equal("The reason", why.reason, uapi::REASON_SHARED_FILE)?;
    equal("What the handover keeps", fdbox::info()?, before)?;
    let nothing = fdbox::no_seal_error();
    needs_room("SEAL_ERROR", fdbox, uapi::SEAL_ERROR, nothing)?;
    // It is not frozen, and can be sealed once it is in the box.
    rustix::fs::ftruncate(&file, 2 * PAGE)?;
    drop(fdbox.get("second-name")?);
    fdbox.seal()?;
    fdbox.unseal()
}

fn next_fd(fdbox: &FdBox, cursor: u64) -> Result<i32, Errno> {
    uapi::call(fdbox, uapi::NEXT_FD, &mut fdbox::next_fd(cursor))
}
