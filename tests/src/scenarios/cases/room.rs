//! SEAL on a host that is short of memory: it uses only what is available, and no process is killed
//! for it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::host::{self, meminfo};
use crate::kvm::{INIT_SHARED, MMAP, Vm};
use crate::memory::{MIB, PAGE, check_page, memfd, write_page, write_pages};
use crate::uapi;

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "room/populated",
        about: "ENOMEM for a memfd with nearly all memory, part of it where pages cannot be \
                pinned; the memfd is unharmed",
        host: HostKind::OneBoot,
        stages: &[populated],
    },
    &Scenario {
        name: "room/two-boxes",
        about: "of two boxes sealed at the same time, with memory for one, one is sealed \
                and one is unchanged",
        host: HostKind::OneBoot,
        stages: &[two_boxes],
    },
    &Scenario {
        name: "room/killed",
        about: "a process that is killed while SEAL fills holes ends soon, and the memory \
                is freed",
        host: HostKind::OneBoot,
        stages: &[killed],
    },
    &Scenario {
        name: "room/cgroup",
        about: "SEAL beyond the limit of its caller's memory cgroup returns ENOMEM, and no \
                process is killed",
        host: HostKind::OneBoot,
        stages: &[cgroup],
    },
    &Scenario {
        name: "room/held-by-a-pipe",
        about: "SEAL names a pinned page that would have to move, and works once the page \
                is released",
        host: HostKind::OneBoot,
        stages: &[held_by_a_pipe],
    },
];

/// This percentage of the memory available on the host, in whole pages.
fn part_of_available(percent: u64) -> Result<u64> {
    Ok(meminfo("MemAvailable")? / 100 * percent / PAGE * PAGE)
}

/// The same for memory that can be pinned.
fn part_of_pinnable(percent: u64) -> Result<u64> {
    let pinnable = meminfo("MemAvailable")?.saturating_sub(meminfo("CmaFree")?);
    Ok(pinnable / 100 * percent / PAGE * PAGE)
}

/// Bytes of `file` that are backed by memory.
fn populated_bytes(file: impl AsFd) -> Result<u64> {
    Ok(fstat(file)?.st_blocks as u64 * 512)
}

fn populate(file: &File, from: u64, bytes: u64) -> Result<()> {
    fallocate(file, FallocateFlags::empty(), from, bytes).context("Populate the memfd")
}

/// `file` has kept none of the pages that SEAL allocated, except those on a CPU's lists at the
/// moment.
fn given_back(file: impl AsFd, had: u64) -> Result<()> {
    let has = populated_bytes(file)?;
    ensure!(
        has <= had + MIB,
        "The file has memory for {has} bytes, {had} before"
    );
    Ok(())
}

/// The reason and the figures of a SEAL that failed with ENOMEM.
fn says_how_much(fdbox: &FdBox) -> Result<()> {
    let why = fdbox.seal_error()?;
    equal("The reason", why.reason, uapi::REASON_NO_MEMORY)?;
    let message = uapi::text(&why.message);
    let figures = message.matches(" MiB").count();
    ensure!(figures >= 2, "The message is {message:?}");
    Ok(())
}

fn populated(cx: &Cx<'_>) -> Result<()> {
    let size = part_of_available(85)?;
    let fdbox = FdBox::create("room-populated")?;
    let file = memfd(c"populated", size)?;
    populate(&file, 0, size)?;
    write_page(&file, 91, size / PAGE - 1)?;
    cx.value("room_populated", [size, meminfo("CmaFree")?])?;
    fdbox.put(file.try_clone()?, "memory")?;
    let before = fdbox::info()?;
    match fdbox.try_seal() {
        Ok(()) => fdbox.unseal()?,
        Err(Errno::NOMEM) => {
            says_how_much(&fdbox)?;
            equal("What the handover keeps", fdbox::info()?, before)?;
        }
        Err(error) => bail!("SEAL: {error}"),
    }
    check_page(&file, 91, size / PAGE - 1)?;
    // Not frozen.
    ftruncate(&file, PAGE)?;
    fdbox.delete()
}

fn two_boxes(_: &Cx<'_>) -> Result<()> {
    let size = part_of_pinnable(70)?;
    let make = |name: &str| -> Result<(FdBox, File)> {
        let fdbox = FdBox::create(name)?;
        let file = memfd(c"holes", size)?;
        fdbox.put(file.try_clone()?, "memory")?;
        Ok((fdbox, file))
    };
    let boxes = [make("room-first")?, make("room-second")?];
    let sealed = std::thread::scope(|scope| {
        let seals = boxes
            .each_ref()
            .map(|(fdbox, _)| scope.spawn(|| fdbox.try_seal()));
        seals.map(|seal| seal.join())
    });
    let mut failed = 0;
    for ((fdbox, file), sealed) in boxes.iter().zip(sealed) {
        match sealed {
            Ok(Ok(())) => fdbox.unseal()?,
            Ok(Err(Errno::NOMEM)) => {
                failed += 1;
                says_how_much(fdbox)?;
                given_back(file, 0)?;
            }
            other => bail!("SEAL: {other:?}"),
        }
        ftruncate(file, PAGE)?;
        fdbox.delete()?;
    }
    equal("How many of the two failed", failed, 1)
}

/// The helper `seal BOX`: seals it.
pub(crate) fn seal(name: &str) -> Result<()> {
    FdBox::open(name)?.seal()
}

fn killed(_: &Cx<'_>) -> Result<()> {
    let size = part_of_pinnable(60)?;
    let fdbox = FdBox::create("room-killed")?;
    let file = memfd(c"killed", size)?;
    // The pages that the file already has are not freed.
    write_pages(&file, 92, 4)?;
    let had = populated_bytes(&file)?;
    fdbox.put(file.try_clone()?, "memory")?;
    let mut helper = Command::new("/proc/self/exe")
        .args(["help", "seal", "room-killed"])
        .stderr(Stdio::piped())
        .spawn()
        .context("Run the helper")?;
    while populated_bytes(&file)? <= had {
        if let Some(status) = helper.try_wait()? {
            bail!("The helper ended before it had filled anything: {status}");
        }
        std::thread::yield_now();
    }
    helper.kill()?;
    let status = helper.wait()?;
    let mut errors = String::new();
    if let Some(mut stderr) = helper.stderr.take() {
        stderr.read_to_string(&mut errors)?;
    }
    ensure!(
        !status.success(),
        "SEAL was done before its caller was killed"
    );
    equal("The helper's errors", errors.trim(), "")?;
    given_back(&file, had)?;
    check_page(&file, 92, 3)?;
    // Neither the box nor the file is sealed, and SEAL starts over.
    ftruncate(&file, 64 * PAGE)?;
    fdbox.seal()?;
    fdbox.unseal()?;
    check_page(&file, 92, 3)?;
    fdbox.delete()
}

const GROUPS: &str = "/sys/fs/cgroup";
const LIMIT: u64 = 64 * MIB;

fn cgroup(cx: &Cx<'_>) -> Result<()> {
    let flags = rustix::mount::MountFlags::empty();
    match rustix::mount::mount("cgroup2", GROUPS, "cgroup2", flags, None) {
        Ok(()) | Err(Errno::BUSY | Errno::NODEV | Errno::NOENT) => {}
        Err(error) => Err(error).context("Mount the cgroups")?,
    }
    let controllers = fs::read_to_string(format!("{GROUPS}/cgroup.controllers"));
    if !controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "memory")) {
        return cx.value("skipped", "room/cgroup: this kernel has no CONFIG_MEMCG");
    }
    fs::write(format!("{GROUPS}/cgroup.subtree_control"), "+memory")?;
    let group = format!("{GROUPS}/room");
    fs::create_dir(&group)?;
    fs::write(format!("{group}/memory.max"), LIMIT.to_string())?;
    let judged = host::in_another_process("seal-in-a-cgroup", &[&group]);
    let events = fs::read_to_string(format!("{group}/memory.events"))?;
    fs::remove_dir(&group)?;
    judged?;
    for kind in ["oom", "oom_kill"] {
        let none = events.lines().any(|line| line == format!("{kind} 0"));
        ensure!(none, "The events of the group: {events}");
    }
    Ok(())
}

/// The helper `seal-in-a-cgroup GROUP`: seals holes beyond the limit of the cgroup.
pub(crate) fn seal_in_a_cgroup(group: &str) -> Result<()> {
    fs::write(format!("{group}/cgroup.procs"), "0").context("Join the group")?;
    let fdbox = FdBox::create("room-cgroup")?;
    let beyond = |fdbox: &FdBox, name: &str| -> Result<()> {
        fails("SEAL beyond the limit", fdbox.try_seal(), Errno::NOMEM)?;
        let why = fdbox.seal_error()?;
        equal("The descriptor named", why.name.text(), name.into())?;
        let message = uapi::text(&why.message);
        ensure!(message.contains("cgroup"), "The message is {message:?}");
        says_how_much(fdbox)
    };
    let file = memfd(c"limited", 2 * LIMIT)?;
    fdbox.put(file.try_clone()?, "memory")?;
    beyond(&fdbox, "memory")?;
    given_back(&file, 0)?;
    ftruncate(&file, LIMIT / 4)?;

    let vm = Vm::create()?;
    let guest = vm.guest_memfd(2 * LIMIT, MMAP | INIT_SHARED)?;
    fdbox.put(guest.try_clone()?, "guest")?;
    fdbox.put(vm.into_fd(), "vm")?;
    beyond(&fdbox, "guest")?;
    given_back(&guest, 0)?;
    drop(fdbox.get("guest")?);
    fdbox.seal()?;
    fdbox.unseal()?;
    fdbox.delete()
}

const PIPED: u64 = 64;

fn held_by_a_pipe(cx: &Cx<'_>) -> Result<()> {
    let (file, taken) = memfd_outside_of_pinnable_memory()?;
    cx.value("room_held_by_a_pipe", [PIPED * PAGE, taken])?;
    let fdbox = FdBox::create("room-pipe")?;
    let (read, write) = rustix::pipe::pipe()?;
    rustix::pipe::fcntl_setpipe_size(&write, (2 * PIPED * PAGE) as usize)?;
    // By reference, and never read: the pipe holds the pages themselves.
    let mut offset = 0;
    while offset < PIPED * PAGE {
        let left = (PIPED * PAGE - offset) as usize;
        let none = rustix::pipe::SpliceFlags::empty();
        ensure!(
            rustix::pipe::splice(&file, Some(&mut offset), &write, None, left, none)? > 0,
            "The pipe takes no more"
        );
    }
    fdbox.put(file.try_clone()?, "memory")?;
    let before = fdbox::info()?;
    fails("SEAL of pages in a pipe", fdbox.try_seal(), Errno::BUSY)?;
    let why = fdbox.seal_error()?;
    equal("The descriptor named", why.name.text(), "memory".into())?;
    let message = uapi::text(&why.message);
    ensure!(
        message.contains("page ") && message.contains("vmsplice"),
        "The message is {message:?}"
    );
    equal("What the handover keeps", fdbox::info()?, before)?;
    drop((read, write));
    fdbox.seal()?;
    fdbox.unseal()?;
    check_page(&file, 93, PIPED - 1)?;
    fdbox.delete()
}

/// A memfd with some pages in memory that is reserved for movable pages, and their size in bytes.
fn memfd_outside_of_pinnable_memory() -> Result<(File, u64)> {
    // The kernel uses it first if it is most of the free memory.
    let all = meminfo("CmaFree")?;
    ensure!(all > 64 * MIB, "The host has no such memory");
    let ballast = memfd(c"ballast", part_of_available(90)?)?;
    let (mut at, step) = (0, 32 * MIB);
    while meminfo("CmaFree")? > all - 16 * MIB {
        ensure!(
            at + step < crate::memory::size(&ballast)?,
            "Nothing is taken of it"
        );
        populate(&ballast, at, step)?;
        at += step;
    }
    let before = meminfo("CmaFree")?;
    let file = memfd(c"piped", PIPED * PAGE)?;
    write_pages(&file, 93, PIPED)?;
    Ok((file, before.saturating_sub(meminfo("CmaFree")?)))
}
