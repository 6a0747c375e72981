//! Packets over a `SOCK_SEQPACKET` socket, with descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

use crate::deadline::Deadline;

/// The maximum number of descriptors in a packet: the socket for the reply, and the file to put.
pub(super) const MAX_FDS: usize = 2;

/// The two ends of a connection.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    socketpair(family, kind, SocketFlags::CLOEXEC, None)
}

/// Whether it is a packet socket for processes of this host.
pub(crate) fn is_packet_socket(fd: impl AsFd) -> bool {
    use rustix::net::sockopt::{socket_domain, socket_type};
    let fd = fd.as_fd();
    socket_domain(fd) == Ok(AddressFamily::UNIX) && socket_type(fd) == Ok(SocketType::SEQPACKET)
}

/// Sends a packet if there is space for it (otherwise EAGAIN).
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop),
        }
    }
}

/// The content of a packet.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// Receives a packet of at most `most` bytes, waiting for it unless `flags` say otherwise. Returns
/// `None` if the other end is closed. EMSGSIZE: a packet that was longer, or had more descriptors
/// than this process can open, was dropped.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    most: usize,
    flags: RecvFlags,
) -> Result<Option<Packet>, Errno> {
    let mut bytes = vec![0; most];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut into = [IoSliceMut::new(&mut bytes)];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut into, &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            got => break got?,
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            fds.extend(came);
        }
    }
    if got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(Errno::MSGSIZE);
    }
    if got.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    bytes.truncate(got.bytes);
    Ok(Some(Packet { bytes, fds }))
}

/// Waits until the socket is ready or closed. Returns `false` after the deadline.
pub(super) fn wait(
    socket: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Deadline,
) -> Result<bool, Errno> {
    loop {
        let left = deadline.left();
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&socket, flags)], timeout.as_ref()) {
            Err(Errno::INTR) if !left.is_zero() => {}
            ready => return ready.map(|ready| ready > 0),
        }
    }
}

/// Whether all descriptors of the other end are closed.
pub(super) fn is_closed(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::empty())];
    let polled = poll(&mut fds, Some(&Timespec::default()));
    polled.is_ok() && fds[0].revents().contains(PollFlags::HUP)
}
