//! Broken memory (hwpoison), before SEAL and after it.
//!
//! Kernels without CONFIG_MEMORY_FAILURE do not support this, and there is nothing to test; the
//! value `skipped` reports that.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mm::Advice;

use super::memfd_large::memfd_in_huge_pages;
use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::kvm::{INIT_SHARED, MMAP, Mapped, Vm};
use crate::memory::{self, PAGE, check_page, check_zero_page, memfd, write_pages};
use crate::uapi;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "poison/refused",
        about: "EHWPOISON: SEAL names the broken page of a memfd or guest_memfd, and works \
                once the page is removed",
        host: HostKind::OneBoot,
        stages: &[refused],
    },
    &Scenario {
        name: "poison/after-seal",
        about: "a page that breaks in a sealed box is broken in the next kernel, too; all \
                others are intact",
        host: HostKind::Kexec,
        stages: &[before, after],
    },
];

const BROKEN: u64 = 5;
const PAGES: u64 = 16;
/// In huge pages.
const LARGE_PAGES: u64 = 512;

/// Whether this kernel supports broken memory; reports it if not.
fn known(cx: &Cx<'_>) -> Result<bool> {
    let known = Path::new("/proc/sys/vm/memory_failure_early_kill").exists();
    if !known {
        cx.value(
            "skipped",
            "poison: this kernel has no CONFIG_MEMORY_FAILURE",
        )?;
    }
    Ok(known)
}

/// The helper `poison PAGE`: makes the kernel treat this page of the file on its standard input as
/// broken. The kernel kills the helper for that if the page had content.
pub(crate) fn poison(page: &str) -> Result<()> {
    let page: u64 = page.parse()?;
    let file = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut mapped = Mapped::new(&file, (page + 1) * PAGE)?;
    let bytes = &mut mapped.bytes()[(page * PAGE) as usize..];
    let address = bytes.as_mut_ptr();
    // SAFETY: the page is mapped, and its content is no longer used.
    unsafe { rustix::mm::madvise(address.cast(), PAGE as usize, Advice::LinuxHwPoison) }
        .context("Break a page")
}

fn break_page(file: impl AsFd) -> Result<()> {
    let file: OwnedFd = file.as_fd().try_clone_to_owned()?;
    // The exit status does not matter: for a pinned page, the kernel reports that it could not
    // remove it.
    Command::new("/proc/self/exe")
        .args(["help", "poison", &BROKEN.to_string()])
        .stdin(Stdio::from(file))
        .stderr(Stdio::null())
        .status()
        .context("Run the helper")?;
    Ok(())
}

fn check_broken(file: &File, what: &str) -> Result<()> {
    let read = file.read_exact_at(&mut [0; 8], BROKEN * PAGE);
    match read.map_err(|error| error.raw_os_error()) {
        Err(Some(errno)) if errno == Errno::IO.raw_os_error() => Ok(()),
        other => bail!("{what}: reading its broken page: {other:?}"),
    }
}

fn refuses(fdbox: &FdBox, name: &str) -> Result<()> {
    fails("SEAL", fdbox.try_seal(), Errno::HWPOISON)?;
    let why = fdbox.seal_error()?;
    equal("The descriptor named", why.name.text(), name.into())?;
    equal("The reason", why.reason, uapi::REASON_UNSUPPORTED_STATE)?;
    let message = uapi::text(&why.message);
    ensure!(
        message.contains(&format!("page {BROKEN} ")),
        "The message is {message:?}"
    );
    Ok(())
}

fn punch(file: impl AsFd) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, BROKEN * PAGE, PAGE).context("Punch a hole")
}

fn refused(cx: &Cx<'_>) -> Result<()> {
    if !known(cx)? {
        return Ok(());
    }
    let fdbox = FdBox::create("poison-refused")?;
    let file = memfd(c"poison", PAGES * PAGE)?;
    write_pages(&file, 95, PAGES)?;
    fdbox.put(file.try_clone()?, "memory")?;
    break_page(&file)?;
    check_broken(&file, "The memfd")?;
    refuses(&fdbox, "memory")?;
    punch(&file)?;
    fdbox.seal()?;
    fdbox.unseal()?;
    check_page(&file, 95, BROKEN + 1)?;
    check_zero_page(&file, BROKEN)?;

    let vm = Vm::create()?;
    let guest = vm.guest_memfd(PAGES * PAGE, MMAP | INIT_SHARED)?;
    fdbox.put(guest.try_clone()?, "guest")?;
    fdbox.put(vm.into_fd(), "vm")?;
    break_page(&guest)?;
    refuses(&fdbox, "guest")?;
    punch(&guest)?;
    fdbox.seal()?;
    fdbox.unseal()?;
    fdbox.delete()
}

const FILES: [(&str, u64); 2] = [("small", PAGES), ("large", LARGE_PAGES)];

fn before(cx: &Cx<'_>) -> Result<()> {
    if !known(cx)? {
        return Ok(());
    }
    let fdbox = FdBox::create("poison")?;
    let small = memfd(c"poison", PAGES * PAGE)?;
    write_pages(&small, 96, PAGES)?;
    let large = memfd_in_huge_pages(c"poison-large", 96, LARGE_PAGES)?;
    fdbox.put(small.try_clone()?, "small")?;
    fdbox.put(large.try_clone()?, "large")?;
    fdbox.seal()?;
    for (file, name) in [(&small, "small"), (&large, "large")] {
        break_page(file)?;
        check_broken(file, name)?;
    }
    Ok(())
}

fn after(cx: &Cx<'_>) -> Result<()> {
    if !known(cx)? {
        return Ok(());
    }
    let fdbox = FdBox::open("poison")?;
    fdbox.unseal()?;
    for (name, pages) in FILES {
        let file = memory::file(fdbox.get_and_keep(name)?);
        check_broken(&file, name)?;
        for page in (0..pages).filter(|page| *page != BROKEN) {
            check_page(&file, 96, page).with_context(|| name.to_owned())?;
        }
    }
    // SEAL treats it as broken, too.
    refuses(&fdbox, "small")?;
    fdbox.delete()
}
