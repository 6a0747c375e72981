//! Errors because of limited resources.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use crate::cases::Cx;
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::host::meminfo;
use crate::memory::{self, PAGE, check_pages, memfd, write_pages};
use crate::{kvm, uapi};

const MAX_BOXES: &str = "/sys/module/fdbox/parameters/max_boxes";

pub(super) fn no_space(_: &Cx<'_>) -> Result<()> {
    let usual = fs::read_to_string(MAX_BOXES).context("Read the module's limit")?;
    equal("The usual limit", usual.trim(), "65536")?;
    fs::write(MAX_BOXES, (fdbox::info()?.boxes + 1).to_string())?;
    let first = FdBox::create("errno-space-1");
    let second = FdBox::try_create("errno-space-2");
    fs::write(MAX_BOXES, usual)?;
    let first = first?;
    fails("CREATE_BOX beyond the limit", second, Errno::NOSPC)?;
    equal(
        "The box in the list",
        fdbox::listed("errno-space-2")?.is_some(),
        false,
    )?;
    FdBox::create("errno-space-2")?.delete()?;
    first.delete()
}

const MAX_FDS: &str = "/sys/module/fdbox/parameters/max_fds";

pub(super) fn no_space_in_box(_: &Cx<'_>) -> Result<()> {
    let usual = fs::read_to_string(MAX_FDS).context("Read the module's limit")?;
    equal("The usual limit", usual.trim(), "65536")?;
    let fdbox = FdBox::create("errno-space")?;
    fdbox.put(memfd(c"first", PAGE)?, "first")?;
    fs::write(MAX_FDS, "1")?;
    let put = |name| {
        let put = fdbox.try_put(memfd(c"second", PAGE)?.into(), name);
        anyhow::Ok(put.map_err(|(error, _)| error))
    };
    let beyond = (put("second"), put("first"));
    fs::write(MAX_FDS, usual)?;
    fails("PUT_FD beyond the limit", beyond.0?, Errno::NOSPC)?;
    fails("PUT_FD of a name that is taken", beyond.1?, Errno::EXIST)?;
    put("second")??;
    equal("The number of descriptors", fdbox.entries()?.len(), 2)?;
    fdbox.delete()
}

/// More than any host of the lab has.
const HUGE: u64 = 64 << 30;

pub(super) fn no_memory(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("errno-memory")?;
    let small = memfd(c"small", PAGE)?;
    fdbox.put(small.try_clone()?, "small")?;
    let file = memfd(c"huge", HUGE)?;
    write_pages(&file, 61, 2)?;
    fdbox.put(file.try_clone()?, "huge")?;
    refused(&fdbox, "huge")?;
    // Neither of the two is frozen.
    rustix::fs::ftruncate(&small, 2 * PAGE)?;
    rustix::fs::ftruncate(&file, 2 * PAGE)?;
    fdbox.seal()?;
    fdbox.unseal()?;
    check_pages(&memory::file(fdbox.get("huge")?), 61, 2)?;

    let vm = kvm::Vm::create()?;
    fdbox.put(vm.guest_memfd(HUGE, kvm::MMAP | kvm::INIT_SHARED)?, "guest")?;
    fdbox.put(vm.into_fd(), "vm")?;
    refused(&fdbox, "guest")?;
    drop(fdbox.get("guest")?);
    fdbox.seal()?;
    fdbox.unseal()?;
    fdbox.delete()
}

/// Two files: the host has enough memory for each of them, but not for both.
pub(super) fn no_memory_for_all(_: &Cx<'_>) -> Result<()> {
    let size = meminfo("MemAvailable")? / 4 * 3 / PAGE * PAGE;
    let fdbox = FdBox::create("errno-memory-all")?;
    for name in ["first", "second"] {
        fdbox.put(memfd(c"half", size)?, name)?;
    }
    let before = fdbox::info()?;
    fails("SEAL of holes too many", fdbox.try_seal(), Errno::NOMEM)?;
    equal(
        "The reason",
        fdbox.seal_error()?.reason,
        uapi::REASON_NO_MEMORY,
    )?;
    equal("What the handover keeps", fdbox::info()?, before)?;
    // Both are unchanged: not frozen.
    for name in ["first", "second"] {
        rustix::fs::ftruncate(fdbox.get(name)?, PAGE)?;
    }
    fdbox.delete()
}

/// SEAL must fail for lack of memory, at the descriptor `name`, and log how much it needs.
fn refused(fdbox: &FdBox, name: &str) -> Result<()> {
    let before = fdbox::info()?;
    fails("SEAL of holes too many", fdbox.try_seal(), Errno::NOMEM)?;
    let why = fdbox.seal_error()?;
    equal("The descriptor named", why.name.text(), name.into())?;
    equal("The reason", why.reason, uapi::REASON_NO_MEMORY)?;
    let message = uapi::text(&why.message);
    ensure!(
        message.contains("65536 MiB") || message.contains("65535 MiB"),
        "The message is {message:?}"
    );
    equal("What the handover keeps", fdbox::info()?, before)
}
