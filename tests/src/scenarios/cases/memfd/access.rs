//! The access modes of a memfd.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::cases::Cx;
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::memory::{self, PAGE, check_page, check_size, memfd, write_page};

const BOX: &str = "access";

/// Name in the box, open flags, and whether writes are sealed.
const FILES: [(&str, OFlags, bool); 6] = [
    ("read-write", OFlags::RDWR, false),
    ("read", OFlags::RDONLY, false),
    ("write", OFlags::WRONLY, false),
    ("append", OFlags::RDWR.union(OFlags::APPEND), false),
    (
        "append-only",
        OFlags::WRONLY.union(OFlags::APPEND).union(OFlags::NONBLOCK),
        false,
    ),
    ("read-sealed", OFlags::RDONLY, true),
];

/// The flags that the kind preserves.
fn kept(file: &File) -> Result<OFlags> {
    let all = fcntl_getfl(file)?;
    Ok(all & (OFlags::RWMODE | OFlags::APPEND | OFlags::NONBLOCK))
}

pub(super) fn before(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create(BOX)?;
    for (name, flags, sealed) in FILES {
        let file = memfd(c"access", PAGE)?;
        write_page(&file, 9, 0)?;
        if sealed {
            fcntl_add_seals(&file, SealFlags::WRITE)?;
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let again = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        equal(name, kept(&again)?, flags)?;
        fdbox.put(again, name)?;
    }
    // Flags that were set later count as well.
    let file = memfd(c"access", PAGE)?;
    fcntl_setfl(&file, OFlags::NONBLOCK)?;
    fdbox.put(file, "nonblock")?;
    // In the same kernel it is the same open file.
    let same = fdbox.get_and_keep("read")?;
    equal(
        "The access in this kernel",
        kept(&File::from(same))?,
        OFlags::RDONLY,
    )?;
    fdbox.seal()
}

pub(super) fn after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open(BOX)?;
    fdbox.unseal()?;
    for (name, flags, _) in FILES {
        let file = memory::file(fdbox.get(name)?);
        equal(name, kept(&file)?, flags)?;
        check_access(name, &file, flags).with_context(|| name.to_owned())?;
    }
    let file = memory::file(fdbox.get("nonblock")?);
    equal("nonblock", kept(&file)?, OFlags::RDWR | OFlags::NONBLOCK)?;
    fdbox.delete()
}

/// The flags have their effect, and still do after another trip through a box.
fn check_access(name: &str, file: &File, flags: OFlags) -> Result<()> {
    let mode = flags & OFlags::RWMODE;
    let wrong = Some(Errno::BADF.raw_os_error());
    let written = file.write_at(b"x", 0).map_err(|error| error.raw_os_error());
    match mode == OFlags::RDONLY {
        true => equal("Writing to it", written, Err(wrong))?,
        false => equal("Writing to it", written, Ok(1))?,
    }
    let appends = flags.contains(OFlags::APPEND);
    check_size(file, if appends { PAGE + 1 } else { PAGE })?;
    let read = file
        .read_at(&mut [0], 0)
        .map_err(|error| error.raw_os_error());
    match mode == OFlags::WRONLY {
        true => equal("Reading from it", read, Err(wrong))?,
        false => equal("Reading from it", read, Ok(1))?,
    }
    if mode == OFlags::RDONLY {
        check_page(file, 9, 0)?;
        fails("Mapping it for writing", map(file), Errno::ACCESS)?;
    }
    let fdbox = FdBox::create(&format!("{BOX}-{name}"))?;
    fdbox.put(file.try_clone()?, "file")?;
    fdbox.seal()?;
    fdbox.unseal()?;
    let again = File::from(fdbox.get("file")?);
    ensure!(kept(&again)? == flags, "Another box changes the flags");
    fdbox.delete()
}

/// A sealed file returns another error for this, so this only distinguishes the other files.
fn map(file: &File) -> Result<(), Errno> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let null = std::ptr::null_mut();
    // SAFETY: a new mapping at no particular address does not affect existing ones.
    unsafe { mmap(null, PAGE as usize, protection, MapFlags::SHARED, file, 0) }.map(drop)
}
