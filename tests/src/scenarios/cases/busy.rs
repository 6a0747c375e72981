//! A box that is in use by a call: what other processes see of it and can do meanwhile, and how
//! that call is interrupted.
//!
//! The driver of `fdbox_probe` blocks SEAL in one of its callbacks. If a call wrongly waits for
//! that SEAL, the driver complains after a while.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::process::{Child, Command};
use std::thread::Scope;

use anyhow::{Context, Result, bail};
use fdbox_lab::scenario::HostKind;
use rustix::fs::fstat;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::memory::{PAGE, memfd};
use crate::probe::Probe;
use crate::{host, kvm, uapi};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "busy/others-go-on",
        about: "a box that is being sealed is listed, refuses DELETE, and does not block \
                other boxes",
        host: HostKind::OneBoot,
        stages: &[others_go_on],
    },
    &Scenario {
        name: "busy/killed",
        about: "a process that waits for a SEAL can be killed, and a SEAL whose caller is \
                killed is undone",
        host: HostKind::OneBoot,
        stages: &[killed],
    },
    &Scenario {
        name: "busy/put-closes-its-own",
        about: "PUT_FD closes the file it took, not one that another thread has opened with \
                the same number",
        host: HostKind::OneBoot,
        stages: &[put_closes_its_own],
    },
    &Scenario {
        name: "busy/anonymous-inode",
        about: "a driver that saves an anonymous file does not block the SEAL of a VM",
        host: HostKind::OneBoot,
        stages: &[anonymous_inode],
    },
    &Scenario {
        name: "busy/what-arrived",
        about: "a box that is being restored from, or deleted, does not block other boxes",
        host: HostKind::Kexec,
        stages: &[arriving, arrived],
    },
];

/// The number of the ioctl system call on x86-64, in /proc/PID/syscall.
const IOCTL: &str = "16 ";

/// Seals a box in a separate thread, up to the point where the driver blocks it.
fn seal_up_to<'scope>(
    scope: &'scope Scope<'scope, '_>,
    probe: &Probe,
    callback: &str,
    fdbox: &'scope FdBox,
) -> Result<std::thread::ScopedJoinHandle<'scope, Result<(), Errno>>> {
    probe.tell(callback)?;
    let seal = scope.spawn(|| fdbox.try_seal());
    probe.tell("await")?;
    Ok(seal)
}

fn ended<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("A thread panicked"))
}

fn others_go_on(_: &Cx<'_>) -> Result<()> {
    let probe = Probe::load()?;
    let busy = FdBox::create("busy")?;
    busy.put(Probe::file()?, "probe")?;
    busy.put(memfd(c"busy", PAGE)?, "memory")?;
    std::thread::scope(|scope| {
        let seal = seal_up_to(scope, &probe, "seal", &busy)?;
        let beside = beside_it(&busy);
        probe.tell("let-go")?;
        ended(seal)??;
        beside
    })?;
    let listed = fdbox::listed("busy")?.context("The box in the list")?;
    equal("The state in the list", listed.state, uapi::STATE_SEALED)?;
    busy.unseal()?;
    busy.delete()
}

/// What can be done while the box is being sealed.
fn beside_it(busy: &FdBox) -> Result<()> {
    let listed = fdbox::listed("busy")?.context("The box in the list")?;
    equal("The state in the list", listed.state, uapi::STATE_OPEN)?;
    equal("The number in the list", listed.fds, 2)?;
    let entries = busy.entries()?;
    let names: Vec<_> = entries.iter().map(|entry| entry.name.text()).collect();
    equal("The names", names, vec!["probe".into(), "memory".into()])?;
    equal("The bytes of the memfd", entries[1].bytes, PAGE)?;
    fails("The last SEAL's error", busy.seal_error(), Errno::NOENT)?;
    fails("DELETE_BOX", busy.try_delete(), Errno::BUSY)?;
    another_box()
}

fn another_box() -> Result<()> {
    let other = FdBox::create("busy-other")?;
    other.put(memfd(c"other", PAGE)?, "memory")?;
    other.seal()?;
    other.unseal()?;
    drop(other.get("memory")?);
    other.delete()
}

/// The helper `seal-busy BOX`.
pub(crate) fn seal_busy(name: &str) -> Result<()> {
    Ok(FdBox::open(name)?.try_seal()?)
}

/// The helper `unseal-busy BOX`.
pub(crate) fn unseal_busy(name: &str) -> Result<()> {
    Ok(FdBox::open(name)?.try_unseal()?)
}

fn helper(name: &str, fdbox: &str) -> Result<Child> {
    let mut helper = Command::new("/proc/self/exe");
    Ok(helper.args(["help", name, fdbox]).spawn()?)
}

/// Whether the task sleeps in an ioctl.
fn in_ioctl(task: &str) -> Result<bool> {
    let call = std::fs::read_to_string(format!("/proc/{task}/syscall"));
    Ok(call.is_ok_and(|call| call.starts_with(IOCTL)))
}

fn killed(_: &Cx<'_>) -> Result<()> {
    let probe = Probe::load()?;
    let fdbox = FdBox::create("busy-killed")?;
    let memory = memfd(c"killed", PAGE)?;
    fdbox.put(memory.try_clone()?, "first")?;
    fdbox.put(Probe::file()?, "probe")?;
    fdbox.put(memfd(c"killed", PAGE)?, "last")?;
    let before = fdbox::info()?;

    probe.tell("seal")?;
    let mut sealing = helper("seal-busy", &fdbox.name)?;
    probe.tell("await")?;
    let mut waiting = helper("unseal-busy", &fdbox.name)?;
    let task = waiting.id().to_string();
    host::until("The helper waits", || in_ioctl(&task))?;
    waiting.kill()?;
    let left = host::until("Who waits and is killed ends", || {
        Ok(waiting.try_wait()?.is_some())
    });
    sealing.kill()?;
    probe.tell("let-go")?;
    left?;
    sealing.wait()?;

    let listed = fdbox::listed(&fdbox.name)?.context("The box in the list")?;
    equal("The state in the list", listed.state, uapi::STATE_OPEN)?;
    equal("What the handover keeps", fdbox::info()?, before)?;
    // The file was frozen.
    rustix::fs::ftruncate(&memory, 2 * PAGE)?;
    fdbox.seal()?;
    fdbox.unseal()?;
    fdbox.delete()
}

fn put_closes_its_own(_: &Cx<'_>) -> Result<()> {
    let probe = Probe::load()?;
    let fdbox = FdBox::create("busy-put")?;
    fdbox.put(Probe::file()?, "probe")?;
    let (taken, other) = (memfd(c"taken", PAGE)?, memfd(c"other", 2 * PAGE)?);
    let kept = taken.try_clone()?;
    let number = taken.into_raw_fd();
    std::thread::scope(|scope| {
        let seal = seal_up_to(scope, &probe, "seal", &fdbox)?;
        let (tell, events) = std::sync::mpsc::channel();
        let fdbox = &fdbox;
        let put = scope.spawn(move || {
            let _ = tell.send(rustix::thread::gettid());
            fdbox.try_put_number(number, "taken")
        });
        let task = format!("self/task/{}", events.recv()?.as_raw_nonzero());
        // By then it has the file, and waits for the box.
        let waits = host::until("PUT_FD waits", || in_ioctl(&task));
        // SAFETY: the number belonged to the memfd, and is not used for anything else here.
        let moved = unsafe { libc::dup2(other.as_raw_fd(), number) };
        // So that the box is open when PUT_FD continues.
        probe.tell("fail")?;
        fails(
            "The SEAL that the driver fails",
            ended(seal)?,
            Errno::REMOTEIO,
        )?;
        ended(put)?.context("PUT_FD")?;
        waits?;
        equal("The number", moved, number)
    })?;
    // SAFETY: it belongs to the duplicate, if PUT_FD left it open; otherwise there is none, which
    // is an error.
    let number = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let found = fstat(number).context("What the other thread opened")?;
    equal("Its inode", found.st_ino, inode(&other)?)?;
    // SAFETY: nothing else uses it.
    unsafe { libc::close(number.as_raw_fd()) };
    let got = fdbox.get("taken")?;
    equal("The inode in the box", inode(&got)?, inode(&kept)?)?;
    fdbox.delete()
}

fn inode(fd: impl AsFd) -> Result<u64> {
    Ok(fstat(fd)?.st_ino)
}

fn anonymous_inode(_: &Cx<'_>) -> Result<()> {
    let probe = Probe::load()?;
    let (held, other) = (FdBox::create("busy-held")?, FdBox::create("busy-vm")?);
    held.put(probe.anonymous()?, "probe")?;
    let vm: OwnedFd = kvm::Vm::create()?.into_fd();
    // Otherwise there is nothing to block.
    let mut anonymous = [probe.anonymous()?, vm.try_clone()?].map(inode).into_iter();
    let (Some(Ok(one)), Some(Ok(two))) = (anonymous.next(), anonymous.next()) else {
        bail!("No inodes");
    };
    equal("The inode of both", one, two)?;
    other.put(vm, "vm")?;
    std::thread::scope(|scope| {
        let seal = seal_up_to(scope, &probe, "write", &held)?;
        let sealed = other.seal();
        probe.tell("let-go")?;
        ended(seal)??;
        sealed
    })?;
    for fdbox in [held, other] {
        fdbox.unseal()?;
        fdbox.delete()?;
    }
    Ok(())
}

const ARRIVED: &str = "busy-arrived";

fn arriving(_: &Cx<'_>) -> Result<()> {
    Probe::load()?;
    let fdbox = FdBox::create(ARRIVED)?;
    for name in ["probe", "probe-discarded"] {
        fdbox.put(Probe::file()?, name)?;
    }
    fdbox.seal()
}

fn arrived(_: &Cx<'_>) -> Result<()> {
    let probe = Probe::load()?;
    let fdbox = FdBox::open(ARRIVED)?;
    fdbox.unseal()?;
    std::thread::scope(|scope| {
        probe.tell("restore")?;
        let get = scope.spawn(|| fdbox.try_get("probe"));
        probe.tell("await")?;
        let beside = beside_a_restore(&fdbox);
        probe.tell("let-go")?;
        drop(ended(get)?.context("GET_FD")?);
        beside
    })?;
    std::thread::scope(|scope| {
        probe.tell("discard")?;
        let delete = scope.spawn(|| fdbox.try_delete());
        probe.tell("await")?;
        let listed = fdbox::listed(ARRIVED);
        let beside = another_box();
        probe.tell("let-go")?;
        ended(delete)?.context("DELETE_BOX")?;
        equal("The deleted box in the list", listed?.is_some(), false)?;
        beside
    })
}

fn beside_a_restore(fdbox: &FdBox) -> Result<()> {
    let listed = fdbox::listed(ARRIVED)?.context("The box in the list")?;
    equal("The number in the list", listed.fds, 2)?;
    equal("The number of entries", fdbox.entries()?.len(), 2)?;
    fails("DELETE_BOX", fdbox.try_delete(), Errno::BUSY)?;
    another_box()
}
