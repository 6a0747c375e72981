//! memfds: any memfd crosses a kexec with everything that the kind promises to preserve.

mod access;

use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt, fchown};

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::memory;
use crate::memory::{
    PAGE, check_page, check_pages, check_size, check_zero_page, memfd, write_page, write_pages,
};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "memfd/empty",
        about: "a memfd of 0 bytes arrives, and grows afterwards",
        host: HostKind::Kexec,
        stages: &[empty_before, empty_after],
    },
    &Scenario {
        name: "memfd/one-page",
        about: "one page arrives with the data written to it after SEAL",
        host: HostKind::Kexec,
        stages: &[one_page_before, one_page_after],
    },
    &Scenario {
        name: "memfd/odd-size",
        about: "a size that is not a multiple of the page size is kept to the byte",
        host: HostKind::Kexec,
        stages: &[odd_size_before, odd_size_after],
    },
    &Scenario {
        name: "memfd/holes",
        about: "holes read as zeros in the next kernel, and data next to them stays",
        host: HostKind::Kexec,
        stages: &[holes_before, holes_after],
    },
    &Scenario {
        name: "memfd/seals",
        about: "the file's own seals still hold",
        host: HostKind::Kexec,
        stages: &[seals_before, seals_after],
    },
    &Scenario {
        name: "memfd/position",
        about: "the position of the file is where it was",
        host: HostKind::Kexec,
        stages: &[position_before, position_after],
    },
    &Scenario {
        name: "memfd/owner-and-name",
        about: "owner, group, mode and the name in /proc are unchanged",
        host: HostKind::Kexec,
        stages: &[owner_before, owner_after],
    },
    &Scenario {
        name: "memfd/access",
        about: "a file comes back with the same access mode: reading, writing, appending",
        host: HostKind::Kexec,
        stages: &[access::before, access::after],
    },
    &Scenario {
        name: "memfd/frozen-while-sealed",
        about: "a memfd in a sealed box cannot be resized, but can be written",
        host: HostKind::OneBoot,
        stages: &[frozen],
    },
];

/// Puts one file into a box of its own and seals it.
pub(super) fn hand_over(name: &str, file: File) -> Result<()> {
    let fdbox = FdBox::create(name)?;
    fdbox.put(file, "memory")?;
    fdbox.seal()
}

/// Takes the file out again in the next kernel, and deletes the box.
pub(super) fn take_out(name: &str) -> Result<File> {
    let fdbox = FdBox::open(name)?;
    fails(
        "GET_FD from a sealed box",
        fdbox.try_get("memory"),
        Errno::BUSY,
    )?;
    fdbox.unseal()?;
    let file = memory::file(fdbox.get("memory")?);
    fdbox.delete()?;
    Ok(file)
}

fn empty_before(_: &Cx<'_>) -> Result<()> {
    hand_over("empty", memfd(c"empty", 0)?)
}

fn empty_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("empty")?;
    check_size(&file, 0)?;
    write_pages(&file, 1, 3)?;
    check_pages(&file, 1, 3)
}

fn one_page_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"one-page", PAGE)?;
    write_page(&file, 1, 0)?;
    let kept = file.try_clone()?;
    hand_over("one-page", file)?;
    // Content may change while the box is sealed: a running guest writes to it.
    write_page(&kept, 2, 0)
}

fn one_page_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("one-page")?;
    check_size(&file, PAGE)?;
    check_page(&file, 2, 0)
}

fn odd_size_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"odd-size", 2 * PAGE + 5)?;
    write_pages(&file, 3, 2)?;
    file.write_all_at(b"hello", 2 * PAGE)?;
    hand_over("odd-size", file)
}

fn odd_size_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("odd-size")?;
    check_size(&file, 2 * PAGE + 5)?;
    check_pages(&file, 3, 2)?;
    let mut rest = [0; 5];
    file.read_exact_at(&mut rest, 2 * PAGE)?;
    equal("The last five bytes", &rest, b"hello")?;
    // Data in the last page after the end of the file must not become visible.
    ftruncate(&file, 3 * PAGE)?;
    let mut behind = vec![1; (PAGE - 5) as usize];
    file.read_exact_at(&mut behind, 2 * PAGE + 5)?;
    ensure!(
        behind.iter().all(|byte| *byte == 0),
        "The bytes behind the end are not zero"
    );
    Ok(())
}

/// Pages 0, 100 and 511 of 512 have data.
const ISLANDS: [u64; 3] = [0, 100, 511];

fn holes_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"holes", 512 * PAGE)?;
    for index in ISLANDS {
        write_page(&file, 4, index)?;
    }
    hand_over("holes", file)
}

fn holes_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("holes")?;
    check_size(&file, 512 * PAGE)?;
    for index in 0..512 {
        match ISLANDS.contains(&index) {
            true => check_page(&file, 4, index)?,
            false => check_zero_page(&file, index)?,
        }
    }
    Ok(())
}

const SEALS: SealFlags = SealFlags::GROW
    .union(SealFlags::SHRINK)
    .union(SealFlags::WRITE);

fn seals_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"seals", PAGE)?;
    write_page(&file, 5, 0)?;
    fcntl_add_seals(&file, SEALS)?;
    hand_over("seals", file)
}

fn seals_after(_: &Cx<'_>) -> Result<()> {
    let mut file = take_out("seals")?;
    equal("The seals", fcntl_get_seals(&file)?, SEALS)?;
    fails("Growing it", ftruncate(&file, 2 * PAGE), Errno::PERM)?;
    fails("Shrinking it", ftruncate(&file, 0), Errno::PERM)?;
    match file.write(b"x") {
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {}
        other => bail!("Writing to it: {other:?}, EPERM was expected"),
    }
    check_page(&file, 5, 0)?;
    fcntl_add_seals(&file, SealFlags::SEAL).context("Add another seal")
}

fn position_before(_: &Cx<'_>) -> Result<()> {
    let mut file = memfd(c"position", 2 * PAGE)?;
    write_pages(&file, 6, 2)?;
    file.seek(SeekFrom::Start(PAGE + 123))?;
    hand_over("position", file)
}

fn position_after(_: &Cx<'_>) -> Result<()> {
    let mut file = take_out("position")?;
    equal("The position", file.stream_position()?, PAGE + 123)?;
    let mut next = [0; 8];
    file.read_exact(&mut next)?;
    equal(
        "What is read there",
        &next[..],
        &memory::page_content(6, 1)[123..131],
    )
}

/// The longest name that memfd_create accepts.
fn longest_name() -> String {
    format!("{:x<249}", "owner-and-name-")
}

/// Owner, group and mode, and the name in /proc.
fn owner_and_name(file: &File) -> Result<([u32; 3], String)> {
    let stat = fstat(file)?;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok((
        [stat.st_uid, stat.st_gid, stat.st_mode],
        link.to_string_lossy().into_owned(),
    ))
}

fn expected() -> ([u32; 3], String) {
    let regular_file = 0o100_000;
    let name = format!("/memfd:{} (deleted)", longest_name());
    ([7, 8, regular_file | 0o640], name)
}

fn owner_before(_: &Cx<'_>) -> Result<()> {
    let file = memfd(&CString::new(longest_name())?, PAGE)?;
    fchown(&file, Some(7), Some(8))?;
    file.set_permissions(Permissions::from_mode(0o640))?;
    equal(
        "Owner, mode and name here",
        owner_and_name(&file)?,
        expected(),
    )?;
    hand_over("owner-and-name", file)
}

fn owner_after(_: &Cx<'_>) -> Result<()> {
    let file = take_out("owner-and-name")?;
    equal("Owner, mode and name", owner_and_name(&file)?, expected())
}

fn frozen(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"frozen", 4 * PAGE)?;
    write_pages(&file, 8, 4)?;
    let kept = file.try_clone()?;
    let fdbox = FdBox::create("frozen")?;
    fdbox.put(file, "memory")?;
    fdbox.seal()?;

    fails("Growing it", ftruncate(&kept, 8 * PAGE), Errno::PERM)?;
    fails("Shrinking it", ftruncate(&kept, PAGE), Errno::PERM)?;
    check_size(&kept, 4 * PAGE)?;
    write_page(&kept, 9, 2)?;
    check_page(&kept, 9, 2)?;

    fdbox.unseal()?;
    ftruncate(&kept, 8 * PAGE).context("Grow it when the box is open again")?;
    ftruncate(&kept, PAGE).context("Shrink it when the box is open again")?;
    let same = memory::file(fdbox.get("memory")?);
    check_size(&same, PAGE)?;
    check_page(&same, 8, 0)?;
    equal(
        "The file taken out",
        fstat(&same)?.st_ino,
        fstat(&kept)?.st_ino,
    )?;
    fdbox.delete()
}
