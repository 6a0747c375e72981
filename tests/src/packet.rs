//! Raw frames as they arrive, below every protocol: a thin layer over packet sockets.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Opens a socket for the frames of `ether_type` that arrive at the interface `name`, with a buffer
/// of `buffer_bytes` bytes.
pub fn open(name: &str, ether_type: u16, buffer_bytes: u32) -> io::Result<OwnedFd> {
    // No protocol until the socket is bound: frames of other interfaces stay out.
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes three numbers.
    let number = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the call has just returned it, so it is open and not owned by anything else.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, buffer_bytes as usize)?;
    let index = rustix::net::netdevice::name_to_index(socket.as_fd(), name)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: ether_type.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is valid during the call, and `length` is its length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

fn check(result: c_int) -> io::Result<c_int> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
