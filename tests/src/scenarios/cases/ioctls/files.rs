//! Files of many kinds, to be put into boxes.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use fdbox_lab::choices::Choices;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{
    FallocateFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, open,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::fdbox::CONTROL;
use crate::kvm::{INIT_SHARED, MMAP, Vm};
use crate::memory::{PAGE, memfd, size};

/// The first word of a memfd whose size and content nobody changes.
const FIRM: u64 = 0x6669_726d_6669_726d;
const MOST_PAGES: u64 = 64;

/// A file of a random kind, and perhaps another that belongs to it.
pub(super) fn make(choices: &mut Choices) -> Result<Vec<OwnedFd>> {
    Ok(match choices.below(12) {
        0..4 => vec![firm(choices)?.into()],
        4..6 => vec![memfd(c"loose", choices.below(MOST_PAGES) * PAGE)?.into()],
        6 => vec![read_only(&firm(choices)?)?],
        7 => vec![Vm::create()?.into_fd()],
        8 => {
            let vm = Vm::create()?;
            let pages = 1 + choices.below(MOST_PAGES);
            vec![
                vm.guest_memfd(pages * PAGE, MMAP | INIT_SHARED)?,
                vm.into_fd(),
            ]
        }
        9 => vec![eventfd(0, EventfdFlags::CLOEXEC)?],
        10 => pair()?,
        _ => vec![other(choices)?],
    })
}

fn pair() -> Result<Vec<OwnedFd>> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok(vec![reader, writer])
}

fn other(choices: &mut Choices) -> Result<OwnedFd> {
    let (path, flags) = *choices.one_of(&[
        ("/dev/null", OFlags::RDWR),
        ("/dev/fdbox", OFlags::PATH),
        ("/dev/fdbox", OFlags::RDONLY),
        ("/proc/self/status", OFlags::RDONLY),
        (CONTROL, OFlags::RDWR),
        ("/dev/iommu", OFlags::RDWR),
    ]);
    open(path, flags | OFlags::CLOEXEC, Mode::empty()).with_context(|| format!("Open {path}"))
}

fn firm(choices: &mut Choices) -> Result<File> {
    let bytes = (1 + choices.below(MOST_PAGES)) * PAGE;
    let file = memfd(c"firm", bytes)?;
    for at in [0, bytes - PAGE] {
        file.write_all_at(&mark(bytes), at)
            .context("Mark a memfd")?;
    }
    Ok(file)
}

fn mark(bytes: u64) -> [u8; 16] {
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&FIRM.to_le_bytes());
    mark[8..].copy_from_slice(&bytes.to_le_bytes());
    mark
}

fn read_only(file: &File) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(OpenOptions::new().read(true).open(path)?.into())
}

/// A name that the kernel gives: `/memfd:firm (deleted)`.
fn is_named(fd: &OwnedFd, name: &str) -> Result<bool> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(target
        .to_string_lossy()
        .starts_with(&format!("/memfd:{name}")))
}

/// What came out of a box is what went in.
pub(super) fn check(fd: &OwnedFd) -> Result<()> {
    if !is_named(fd, "firm")? {
        return Ok(());
    }
    let bytes = size(fd)?;
    ensure!(bytes >= PAGE, "A memfd has {bytes} bytes");
    let file = File::from(fd.try_clone()?);
    for at in [0, bytes - PAGE] {
        let mut found = [0; 16];
        file.read_exact_at(&mut found, at)?;
        ensure!(found == mark(bytes), "At {at} of {bytes}: {found:x?}");
    }
    Ok(())
}

/// Does to a file what its owner may do at any time. Whether it is possible depends on whether a
/// sealed box holds it.
pub(super) fn use_somehow(fd: &OwnedFd, choices: &mut Choices) -> Result<()> {
    if !is_named(fd, "loose")? {
        return Ok(());
    }
    let page = choices.below(MOST_PAGES) * PAGE;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // Any of these may be refused.
    match choices.below(5) {
        0 => drop(ftruncate(fd, page)),
        1 => drop(fallocate(fd, hole, page, PAGE)),
        2 => drop(fallocate(fd, FallocateFlags::empty(), page, PAGE)),
        3 => drop(fcntl_add_seals(fd.as_fd(), SealFlags::GROW)),
        _ => drop(rustix::io::pwrite(fd, &[1; 64], page)),
    }
    Ok(())
}
