//! A guest that counts, taken through a kexec: a VMM without privilege and the process that drives it.
//!
//! ```text
//! pages update KERNEL INITRAMFS CMDLINE   in the old host, as root: start a VMM and leave for that kernel
//! pages resume                            in the new host, as root: start a VMM for the guest that waits
//! pages vmm | pages arrive                what those start, without any capability
//! ```

mod vmm;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use vmm_fdbox::coordinator::{
    Boxes, Child, ChildError, RemoteLeaving, ResumeLimits, ToResume, resume,
};
use vmm_fdbox::member::{Arrived, Join, Left, serve_arriving, serve_leaving};
use vmm_fdbox::update::{
    Destination, ExitStatus, Fleet, FleetPlan, KexecHost, Limits, NextKernel, PartyError,
};
use vmm_fdbox::{BoxName, Control};

use crate::vmm::Vmm;

const BOX: &str = "pages";
/// Who VMMs run as: nobody.
const UID: u32 = 65534;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["vmm"] => leave(),
        ["arrive"] => arrive(),
        ["update", kernel, initramfs, ref cmdline @ ..] => {
            update(kernel, initramfs, &cmdline.join(" "))
        }
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

/// A process of this program without any capability, and the socket to it.
fn start(role: &str) -> Result<(Child, UnixStream), ChildError> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("pages").arg(role).uid(UID).gid(UID);
    Child::spawn(command)
}

/// The socket to the coordinator: standard input.
fn coordinator() -> Result<UnixStream, PartyError> {
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into())
}

fn leave() -> Result<ExitStatus, PartyError> {
    let mut vmm = Vmm::boot()?;
    match serve_leaving(coordinator()?, &mut vmm) {
        // A real one would be its guest's VMM from here on, as before.
        Left::Here | Left::HandedOver => Ok(ExitStatus::Done),
        Left::Lost(stopped) => Err(stopped.message.into()),
    }
}

fn arrive() -> Result<ExitStatus, PartyError> {
    let mut vmm = Vmm::default();
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

fn update(kernel: &str, initramfs: &str, cmdline: &str) -> Result<ExitStatus, PartyError> {
    let control = Arc::new(Control::open()?);
    let (_vmm, socket) = start("vmm")?;
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
        ..FleetPlan::default()
    };
    let fleet = Fleet::new(host, vec![member], plan);
    let outcome = fleet
        .observed_by(|event| eprintln!("pages: {event:?}"))
        .run();
    Err(format!("Still here: {outcome:?}").into())
}

fn resume_guest() -> Result<ExitStatus, PartyError> {
    let control = Control::open()?;
    let guest = ToResume {
        box_name: BoxName::new(BOX)?,
        start: Box::new(|| start("arrive")),
        userspace_boottime_ns: None,
        paused: false,
        fail_at: None,
    };
    let resumed = resume(&control, vec![guest], ResumeLimits::default(), &|_, _| {});
    let resumed = resumed.into_iter().next().ok_or("there was no guest")?;
    println!("{resumed:?}");
    // Its VMM says how the guest does, and goes with this process.
    std::thread::sleep(Duration::from_secs(1));
    Ok(resumed.status)
}
