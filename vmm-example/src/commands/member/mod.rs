//! `member`: the process of a guest that a coordinator moves here, from a box or from another VMM
//! of this kernel. The coordinator is at the other end of standard input.

mod arriving;
mod arriving_guest;
mod cpu;
mod environment;
mod standby;
mod successor;

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{Context, bail};
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Signal, getppid, set_parent_process_death_signal, setsid};
use vmm_fdbox::member::{Adoption, Arrived, Lent, serve_arriving};
use vmm_fdbox::update::ExitStatus;

use self::arriving_guest::ArrivingGuest;
use crate::cli::MemberArgs;
use crate::inherited;

pub(super) fn member(args: &MemberArgs) -> anyhow::Result<ExitStatus> {
    let socket = take_socket(args.stdin).context("No coordinator is at standard input")?;
    match args.stdin {
        // The guest ends with the process that its operator sees.
        Some(_) => end_with_parent(&socket)?,
        // An interrupt of the coordinator must not reach the guest. This fails for a session
        // leader, which already has a session of its own.
        None => drop(setsid()),
    }
    let mut arriving = ArrivingGuest::new(args);
    match serve_arriving(socket, &mut arriving) {
        // Reported to the coordinator.
        Arrived::NotHere(Some(_)) if !arriving.is_ready() => Ok(ExitStatus::Error),
        Arrived::NotHere(_) => Ok(ExitStatus::NothingChanged),
        Arrived::Here(adoption) => live(arriving, adoption),
    }
}

fn end_with_parent(socket: &UnixStream) -> anyhow::Result<()> {
    let ends = set_parent_process_death_signal(Some(Signal::KILL));
    ends.context("Cannot end with the coordinator")?;
    // If the parent is already gone, its death signal was missed.
    let coordinator = socket_peercred(socket).context("Cannot tell who the coordinator is")?;
    match getppid() == Some(coordinator.pid) {
        true => Ok(()),
        false => bail!("The coordinator is gone"),
    }
}

/// Takes the socket, and replaces it with what the guest's console reads from: nothing, unless this
/// descriptor was inherited for it.
fn take_socket(console: Option<RawFd>) -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    match console {
        Some(fd) => rustix::stdio::dup2_stdin(inherited::duplicate(fd)?)?,
        None => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::stdio::dup2_stdin(rustix::fs::open("/dev/null", flags, Mode::empty())?)?;
        }
    }
    Ok(UnixStream::from(socket))
}

/// Serves the guest until its end.
fn live(arriving: ArrivingGuest<'_>, adoption: Adoption) -> anyhow::Result<ExitStatus> {
    let (around, vmm) = arriving.into_parts().context("There is no guest")?;
    around.serve_with(vmm, |welcome| {
        let adopt = move |lent: Lent| {
            let clients = lent.fds.into_iter();
            clients.for_each(|(_, client)| welcome(client.into()));
        };
        thread::spawn(move || adoption.wait(adopt));
    })
}
