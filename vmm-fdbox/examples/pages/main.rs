//! A guest that counts, taken through a kexec: an unprivileged VMM and the process that drives it.
//!
//! ```text
//! pages update KERNEL INITRAMFS CMDLINE   in the old host, as root: start a VMM and jump into that kernel
//! pages resume                            in the new host, as root: start a VMM for the waiting guest
//! pages trace KERNEL INITRAMFS CMDLINE    run updates that each lack one allowed system call, and fail
//! pages vmm | pages arrive                the VMMs that those start, without any capability
//! ```

mod sandbox;
mod vmm;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};
use vmm_fdbox::coordinator::{
    Boxes, Child, ChildError, RemoteLeaving, ResumeLimits, ToResume, resume,
};
use vmm_fdbox::member::{Arrived, Join, Left, serve_arriving, serve_leaving};
use vmm_fdbox::update::{
    Destination, ExitStatus, Fleet, FleetPlan, KexecHost, Limits, NextKernel, PartyError, Step,
};
use vmm_fdbox::{BoxName, Control};

use crate::vmm::Vmm;

const BOX: &str = "pages";
/// The user of the VMMs: nobody.
const UID: u32 = 65534;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["vmm"] => leave(),
        ["arrive"] => arrive(),
        ["update", kernel, initramfs, ref cmdline @ ..] => {
            update(kernel, initramfs, &cmdline.join(" "), None)
        }
        ["fail", kernel, initramfs, ref cmdline @ ..] => {
            update(kernel, initramfs, &cmdline.join(" "), Some(Step::Jump))
        }
        ["trace", ref next @ ..] => trace(next),
        ["resume"] => resume_guest(),
        _ => Err("Usage: pages update KERNEL INITRAMFS CMDLINE | pages resume".into()),
    };
    match done {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("pages: {error}");
            ExitStatus::Error.into()
        }
    }
}

/// Starts a process of this program without any capability, and returns it with the socket to it.
fn start(role: &str) -> Result<(Child, UnixStream), ChildError> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("pages").arg(role).uid(UID).gid(UID);
    // The system call to leave out is for the coordinator only.
    command.env_remove(sandbox::WITHOUT);
    Child::spawn(command)
}

/// The socket to the coordinator: standard input.
fn coordinator() -> Result<UnixStream, PartyError> {
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into())
}

fn leave() -> Result<ExitStatus, PartyError> {
    let mut vmm = Vmm::boot()?;
    sandbox::LEAVING.confine(&[])?;
    match serve_leaving(coordinator()?, &mut vmm) {
        // A real VMM would keep running its guest from here on.
        Left::Here | Left::HandedOver => Ok(ExitStatus::Done),
        Left::Lost(stopped) => Err(stopped.message.into()),
    }
}

fn arrive() -> Result<ExitStatus, PartyError> {
    let mut vmm = Vmm::default();
    sandbox::ARRIVING.confine(&[])?;
    match serve_arriving(coordinator()?, &mut vmm) {
        Arrived::Here(adoption) => {
            let here = vmm.vm()?.count();
            while vmm.vm()?.count() < here + 1000 {
                std::thread::yield_now();
            }
            println!("The guest counted on, from {here}");
            adoption.wait(drop);
            Ok(ExitStatus::Done)
        }
        Arrived::NotHere(failed) => Err(format!("{failed:?}").into()),
    }
}

fn update(
    kernel: &str,
    initramfs: &str,
    cmdline: &str,
    fail_at: Option<Step>,
) -> Result<ExitStatus, PartyError> {
    let (vmm, socket) = start("vmm")?;
    sandbox::UPDATING.confine(&[kernel, initramfs])?;
    let control = Arc::new(Control::open()?);
    let limits = Limits::default();
    let join = Join {
        box_name: BoxName::new(BOX)?,
        to: Destination::NextKernel,
        module: control.module()?,
        limits: limits.into(),
        position: None,
        fail_at: None,
    };
    let member = RemoteLeaving::new(BOX, Ok(socket), control, join);
    let host = KexecHost::new(NextKernel::Files {
        kernel: kernel.into(),
        initramfs: Some(initramfs.into()),
        cmdline: cmdline.to_owned(),
    });
    let plan = FleetPlan {
        lease: true,
        fail_at,
        ..FleetPlan::default()
    };
    let fleet = Fleet::new(host, vec![member], plan);
    let outcome = fleet
        .observed_by(|event| eprintln!("pages: {event:?}"))
        .run();
    // The guest goes away with this process in any case.
    drop(vmm);
    Err(format!("Still here: {outcome:?}").into())
}

/// Listed calls that an update does not make here: only a member duplicates and checks its
/// descriptor, its socket already exists, and the standard library may query a file position.
const NOT_SEEN: [&str; 4] = ["fcntl", "fstat", "lseek", "socketpair"];

/// Every listed system call is one that an update makes: without it, the filter ends the process.
/// Only the last update would leave the host, and it lacks the very call that would.
fn trace(next: &[&str]) -> Result<ExitStatus, PartyError> {
    // The VMM of a coordinator that died rolls its guest back and exits; as a subreaper this
    // process waits for it.
    set_child_subreaper(Some(getpid()))?;
    let without = |role: &str, name: &str| {
        let mut update = Command::new("/proc/self/exe");
        update.arg0("pages").arg(role).args(next);
        let status = update.env(sandbox::WITHOUT, name).status();
        while wait(WaitOptions::empty()).is_ok() {}
        status
    };
    let status = without("fail", "")?;
    if status.code() != Some(i32::from(ExitStatus::Error.code())) {
        return Err(format!("With all that is listed: {status}").into());
    }
    let lists = sandbox::UPDATING.calls.iter().copied().flatten();
    let names: BTreeSet<&str> = lists.map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for name in names {
        if name == "flock" {
            leave_a_box()?;
        }
        let role = if name == "reboot" { "update" } else { "fail" };
        let status = without(role, name)?;
        let is_called = status.signal() == Some(libc::SIGSYS);
        if is_called == NOT_SEEN.contains(&name) {
            wrong.push(format!("without {name}: {status}"));
        }
    }
    match wrong.is_empty() {
        true => Ok(ExitStatus::Done),
        false => Err(wrong.join("; ").into()),
    }
}

/// An empty box, as an update leaves it that is killed. Only such a box is claimed.
fn leave_a_box() -> Result<(), PartyError> {
    match Control::open()?.create(&BoxName::new(BOX)?) {
        Err(error) if error.errno() != Errno::EXIST => Err(error.into()),
        _ => Ok(()),
    }
}

fn resume_guest() -> Result<ExitStatus, PartyError> {
    // Started before the filter, or the VMM would inherit what this process may not do.
    let vmm = start("arrive")?;
    sandbox::RESUMING.confine(&[])?;
    let control = Control::open()?;
    let guest = ToResume {
        box_name: BoxName::new(BOX)?,
        start: Box::new(|| Ok(vmm)),
        userspace_boottime_ns: None,
        paused: false,
        fail_at: None,
    };
    let resumed = resume(&control, vec![guest], ResumeLimits::default(), &|_, _| {});
    let resumed = resumed.into_iter().next().ok_or("there was no guest")?;
    println!("{resumed:?}");
    // The VMM prints the guest's state, and ends with this process.
    std::thread::sleep(Duration::from_secs(1));
    Ok(resumed.status)
}
