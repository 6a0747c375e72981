//! Errnos of the ioctls that tell what is there.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::super::Cx;
use super::{NOWHERE, needs_cap_sys_admin};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::memory::{PAGE, memfd};
use crate::uapi;

/// What every growable struct refuses. `bytes` is a good argument, `size` the first field.
fn refuses_bad_growable(what: &str, node: BorrowedFd<'_>, command: u32, size: u32) -> Result<()> {
    fails(
        &format!("{what} at no address"),
        uapi::call_plain(node, command, NOWHERE),
        Errno::FAULT,
    )?;
    let call = |size: u32, flags: u32, tail: u8| {
        uapi::call(node, command, &mut uapi::Bytes::growable(size, flags, tail))
    };
    for small in [0, 1, 7, size - 1] {
        fails(
            &format!("{what} of {small} bytes"),
            call(small, 0, 0),
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
    let larger = call(size + 8, 0, 0);
    ensure!(
        matches!(larger, Ok(_) | Err(Errno::NOENT)),
        "{what} with a tail of zeros: {larger:?}"
    );
    needs_cap_sys_admin(what, || call(size, 0, 0))
}

pub(super) fn lists(_: &Cx<'_>) -> Result<()> {
    let control = fdbox::control()?;
    let size = size_of::<uapi::Info>() as u32;
    refuses_bad_growable("INFO", control.as_fd(), uapi::INFO, size)?;
    equal("The version of the UAPI", fdbox::info()?.uapi_version, 1)?;
    let size = size_of::<uapi::NextBox>() as u32;
    refuses_bad_growable("NEXT_BOX", control.as_fd(), uapi::NEXT_BOX, size)?;
    let mut past = fdbox::next_box(u64::MAX);
    fails(
        "NEXT_BOX past the end",
        uapi::call(&control, uapi::NEXT_BOX, &mut past),
        Errno::NOENT,
    )?;

    let fdbox = FdBox::create("errno-lists")?;
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
    next_fd(&fdbox, 0)?;
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
    fdbox.delete()?;
    fails("NEXT_FD of a deleted box", next_fd(&fdbox, 0), Errno::NODEV)?;
    fails(
        "SEAL_ERROR of a deleted box",
        fdbox.seal_error().map(drop),
        Errno::NODEV,
    )
}

fn next_fd(fdbox: &FdBox, cursor: u64) -> Result<i32, Errno> {
    uapi::call(fdbox, uapi::NEXT_FD, &mut fdbox::next_fd(cursor))
}
