//! Requests to a keeper, with the semantics and the errnos of the module's commands.
//!
//! A socket of a box, including its receive queue, is shared by all processes that were passed a
//! duplicate. Each request therefore carries a socket of its own for the reply.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown,
    socket_with,
};

use super::packet::{self, Packet};
use super::wire::{Command, HOLD_EXCLUSIVE, HOLD_SHARED, REPLY_BYTES, Reply, Request};
use crate::abi::{self, FDBOX_NAME_LEN};
use crate::deadline::Deadline;
use crate::hold::Hold;
use crate::owner::Owner;

type Name = [u8; FDBOX_NAME_LEN];

/// The time limit for requests that do not process memory.
const LIMIT: Duration = Duration::from_secs(30);
/// The time limit for passing all memory of a guest to the kernel.
const SEAL_LIMIT: Duration = Duration::from_secs(600);

/// The time limit for an answer while guests wait.
const CHECK_LIMIT: Duration = Duration::from_secs(1);

/// Connects to the socket on which a keeper listens.
pub(crate) fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?).map_err(gone)?;
    Ok(socket)
}

fn ask(socket: BorrowedFd<'_>, request: &Request) -> Result<Reply, Errno> {
    let (reply, fd) = exchange(socket, request, None)?;
    match (reply.error, fd) {
        (Some(errno), _) => Err(errno),
        (None, Some(_)) => Err(Errno::PROTO),
        (None, None) => Ok(reply),
    }
}

fn ask_for_fd(socket: BorrowedFd<'_>, request: &Request) -> Result<OwnedFd, Errno> {
    let (reply, fd) = exchange(socket, request, None)?;
    reply.error.map_or(Ok(()), Err)?;
    fd.ok_or(Errno::PROTO)
}

/// Like [`ask`], for a list: `None` at its end.
fn ask_next(socket: BorrowedFd<'_>, command: Command, cursor: u64) -> Result<Option<Reply>, Errno> {
    match ask(socket, &Request::new(command).number(cursor)) {
        Ok(reply) => Ok(Some(reply)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn exchange(
    socket: BorrowedFd<'_>,
    request: &Request,
    put: Option<BorrowedFd<'_>>,
) -> Result<(Reply, Option<OwnedFd>), Errno> {
    let seals = matches!(request.command, Command::Seal | Command::Ready);
    let deadline = Deadline::within(if seals { SEAL_LIMIT } else { LIMIT });
    exchange_by(socket, request, put, deadline)
}

fn exchange_by(
    socket: BorrowedFd<'_>,
    request: &Request,
    put: Option<BorrowedFd<'_>>,
    deadline: Deadline,
) -> Result<(Reply, Option<OwnedFd>), Errno> {
    let (ours, theirs) = packet::pair()?;
    let fds: Vec<_> = std::iter::once(theirs.as_fd()).chain(put).collect();
    let bytes = request.encode();
    while let Err(errno) = packet::send(socket, &bytes, &fds) {
        if errno != Errno::AGAIN {
            return Err(gone(errno));
        }
        if !packet::wait(socket, PollFlags::OUT, deadline)? {
            return Err(Errno::TIMEDOUT);
        }
    }
    drop(fds);
    drop(theirs);
    if !packet::wait(ours.as_fd(), PollFlags::IN, deadline)? {
        // No reply can arrive from here on: either it is already there, or the keeper undoes the
        // request.
        shutdown(&ours, Shutdown::Read)?;
    }
    let got = packet::receive(ours.as_fd(), REPLY_BYTES, RecvFlags::DONTWAIT).map_err(gone)?;
    let Packet { bytes, mut fds } = match got {
        Some(packet) => packet,
        None if deadline.is_over() => return Err(Errno::TIMEDOUT),
        None => return Err(Errno::PIPE),
    };
    let reply = Reply::decode(&bytes).filter(|reply| reply.command == request.command);
    let fd = fds.pop();
    match reply {
        Some(reply) if fds.is_empty() => {
            if request.command == Command::Get && fd.is_some() {
                confirm(socket, ours.as_fd())?;
            }
            Ok((reply, fd))
        }
        _ => Err(Errno::PROTO),
    }
}

/// Tells the keeper that the file has arrived. If it cannot be told, the file is still in the box.
fn confirm(socket: BorrowedFd<'_>, reply: BorrowedFd<'_>) -> Result<(), Errno> {
    let got = Request::new(Command::Got).encode();
    packet::send(reply, &got, &[]).map_err(|errno| match packet::is_closed(socket) {
        true => gone(errno),
        false => Errno::TIMEDOUT,
    })
}

/// A single errno means that the keeper is gone.
fn gone(errno: Errno) -> Errno {
    match errno {
        Errno::CONNRESET | Errno::NOTCONN | Errno::CONNREFUSED => Errno::PIPE,
        errno => errno,
    }
}

/// Whether the keeper answers. The sockets of one that was killed may still be open while the
/// kernel takes its boxes down.
pub(crate) fn check(keeper: BorrowedFd<'_>) -> Result<(), Errno> {
    let deadline = Deadline::within(CHECK_LIMIT);
    let info = Request::new(Command::Info);
    exchange_by(keeper, &info, None, deadline).map(drop)
}

/// A keeper's home and features.
pub(crate) fn info(keeper: BorrowedFd<'_>) -> Result<(u32, abi::Info), Errno> {
    let reply = ask(keeper, &Request::new(Command::Info))?;
    let [features, boxes, ..] = reply.numbers;
    let info = abi::Info {
        uapi_version: abi::FDBOX_UAPI_VERSION,
        features,
        boxes,
        ..Default::default()
    };
    Ok((reply.code, info))
}

pub(crate) fn create_box(keeper: BorrowedFd<'_>, name: Name) -> Result<(), Errno> {
    ask(keeper, &Request::new(Command::Create).name(name)).map(drop)
}

pub(crate) fn delete_box(keeper: BorrowedFd<'_>, name: Name) -> Result<(), Errno> {
    ask(keeper, &Request::new(Command::Delete).name(name)).map(drop)
}

/// A socket of one box.
pub(crate) fn open_box(keeper: BorrowedFd<'_>, name: Name) -> Result<OwnedFd, Errno> {
    ask_for_fd(keeper, &Request::new(Command::Open).name(name))
}

pub(crate) fn give(keeper: BorrowedFd<'_>, name: Name, owner: Owner) -> Result<(), Errno> {
    let number = u64::from(owner.uid) | u64::from(owner.gid) << 32;
    let request = Request::new(Command::Give).name(name).number(number);
    ask(keeper, &request).map(drop)
}

pub(crate) fn owner(keeper: BorrowedFd<'_>, name: Name) -> Result<Owner, Errno> {
    let reply = ask(keeper, &Request::new(Command::Owner).name(name))?;
    let number = |at: usize| u32::try_from(reply.numbers[at]).map_err(|_| Errno::PROTO);
    Ok(Owner {
        uid: number(0)?,
        gid: number(1)?,
    })
}

/// Makes sure that the next kernel will find every sealed box.
pub(crate) fn ready(keeper: BorrowedFd<'_>) -> Result<(), Errno> {
    ask(keeper, &Request::new(Command::Ready)).map(drop)
}

pub(crate) fn next_box(keeper: BorrowedFd<'_>, cursor: u64) -> Result<Option<abi::NextBox>, Errno> {
    let reply = ask_next(keeper, Command::NextBox, cursor)?;
    Ok(reply.map(|reply| abi::NextBox {
        size: 0,
        flags: 0,
        cursor: reply.numbers[0],
        state: reply.code,
        fds: u32::try_from(reply.numbers[1]).unwrap_or(u32::MAX),
        name: reply.name,
    }))
}

/// Whether a box is sealed.
pub(crate) fn is_sealed(fdbox: BorrowedFd<'_>) -> Result<bool, Errno> {
    let reply = ask(fdbox, &Request::new(Command::State))?;
    Ok(reply.code == abi::FDBOX_STATE_SEALED)
}

/// Moves `fd` into the box; on failure the descriptor is returned, still open.
pub(crate) fn put_fd(
    fdbox: BorrowedFd<'_>,
    name: Name,
    fd: OwnedFd,
) -> Result<(), (OwnedFd, Errno)> {
    let request = Request::new(Command::Put).name(name);
    let done = exchange(fdbox, &request, Some(fd.as_fd()));
    match done.and_then(|(reply, _)| reply.error.map_or(Ok(()), Err)) {
        Ok(()) => Ok(()),
        Err(errno) => Err((fd, errno)),
    }
}

pub(crate) fn get_fd(fdbox: BorrowedFd<'_>, name: Name, flags: u64) -> Result<OwnedFd, Errno> {
    let command = match flags & abi::FDBOX_GET_KEEP {
        0 => Command::Get,
        _ => Command::Keep,
    };
    ask_for_fd(fdbox, &Request::new(command).name(name))
}

pub(crate) fn next_fd(fdbox: BorrowedFd<'_>, cursor: u64) -> Result<Option<abi::NextFd>, Errno> {
    let reply = ask_next(fdbox, Command::NextFd, cursor)?;
    Ok(reply.map(|reply| abi::NextFd {
        size: 0,
        flags: 0,
        cursor: reply.numbers[0],
        state: reply.code,
        pad: 0,
        bytes: reply.numbers[1],
        name: reply.name,
        compatible: reply.kind,
    }))
}

pub(crate) fn next_lost(
    fdbox: BorrowedFd<'_>,
    cursor: u64,
) -> Result<Option<abi::NextLost>, Errno> {
    let reply = ask_next(fdbox, Command::NextLost, cursor)?;
    Ok(reply.map(|reply| abi::NextLost {
        size: 0,
        flags: 0,
        cursor: reply.numbers[0],
        error: i32::try_from(reply.numbers[1]).unwrap_or(i32::MAX),
        reason: reply.code,
        name: reply.name,
        compatible: reply.kind,
        message: reply.message,
    }))
}

/// Seals a box; the reply to a refusal contains the reason.
pub(crate) fn seal(fdbox: BorrowedFd<'_>) -> Result<(), (Errno, Option<Box<abi::SealError>>)> {
    let answer = exchange(fdbox, &Request::new(Command::Seal), None);
    let (reply, _) = answer.map_err(|errno| (errno, None))?;
    let Some(errno) = reply.error else {
        return Ok(());
    };
    let report = abi::SealError {
        size: 0,
        flags: 0,
        error: errno.raw_os_error(),
        reason: reply.code,
        name: reply.name,
        message: reply.message,
    };
    let tells = report.message[0] != 0;
    Err((errno, tells.then(|| Box::new(report))))
}

pub(crate) fn unseal(fdbox: BorrowedFd<'_>) -> Result<(), Errno> {
    ask(fdbox, &Request::new(Command::Unseal)).map(drop)
}

pub(crate) fn salvage(fdbox: BorrowedFd<'_>) -> Result<(), Errno> {
    ask(fdbox, &Request::new(Command::Salvage)).map(drop)
}

/// Claims the box for the holders of this socket.
pub(crate) fn claim(fdbox: BorrowedFd<'_>, hold: Hold) -> Result<(), Errno> {
    let number = match hold {
        Hold::Shared => HOLD_SHARED,
        Hold::Exclusive => HOLD_EXCLUSIVE,
    };
    ask(fdbox, &Request::new(Command::Claim).number(number)).map(drop)
}
