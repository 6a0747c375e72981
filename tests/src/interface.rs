//! Configuration of network interfaces without an external program: a thin layer over the kernel's
//! ioctls.

use std::ffi::{c_char, c_int, c_short, c_uchar, c_ulong, c_ushort};
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use libc::{__c_anonymous_ifr_ifru as Union, ifreq, sockaddr};

use crate::net::NETMASK;

/// `_IOW('T', 202, int)` to `_IOW('T', 204, int)` of linux/if_tun.h.
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETPERSIST: c_ulong = 0x4004_54cb;
const TUNSETOWNER: c_ulong = 0x4004_54cc;
/// linux/route.h.
const RTF_UP: c_ushort = 1;
const RTF_GATEWAY: c_ushort = 2;

/// linux/ethtool.h.
const ETHTOOL_GRINGPARAM: u32 = 0x10;
const ETHTOOL_SRINGPARAM: u32 = 0x11;

/// `struct ethtool_ringparam` of linux/ethtool.h.
#[derive(Default)]
#[repr(C)]
struct Rings {
    command: u32,
    /// The maximum that the card supports, for each of the rings below.
    most: [u32; 4],
    receive: u32,
    receive_small: u32,
    receive_large: u32,
    transmit: u32,
}

/// `struct rtentry` of linux/route.h.
#[repr(C)]
struct Route {
    pad1: c_ulong,
    destination: sockaddr,
    gateway: sockaddr,
    mask: sockaddr,
    flags: c_ushort,
    pad2: c_short,
    pad3: c_ulong,
    tos: c_uchar,
    class: c_uchar,
    pad4: [c_short; 3],
    metric: c_short,
    device: *mut c_char,
    mtu: c_ulong,
    window: c_ulong,
    rtt: c_ushort,
}

/// Assigns an address to an interface and brings it up.
pub fn configure(name: &str, address: Ipv4Addr) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let of = |address| Union {
        ifru_addr: socket_address(address),
    };
    let up = Union {
        ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as c_short,
    };
    for (call, argument) in [
        (libc::SIOCSIFADDR, of(address)),
        (libc::SIOCSIFNETMASK, of(NETMASK)),
        (libc::SIOCSIFFLAGS, up),
    ] {
        let request = request(name, argument)?;
        // SAFETY: each of these calls reads one `struct ifreq`; `request` is one.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), call, &raw const request) })?;
    }
    Ok(())
}

/// Brings an interface up, without an address.
pub fn switch_on(name: &str) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
    let request = request(name, Union { ifru_flags: flags })?;
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq`; `request` is one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// Sets the length of a card's receive ring; its other rings keep theirs.
pub fn set_receive_ring(name: &str, frames: u32) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut rings = Rings::default();
    for command in [ETHTOOL_GRINGPARAM, ETHTOOL_SRINGPARAM] {
        rings.command = command;
        let data = Union {
            ifru_data: (&raw mut rings).cast(),
        };
        let request = request(name, data)?;
        // SAFETY: SIOCETHTOOL reads one `struct ifreq`, and with these two commands reads or writes
        // one `struct ethtool_ringparam` that it points to: `rings`, which is alive and not
        // borrowed elsewhere.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw const request) })?;
        rings.receive = frames;
    }
    Ok(())
}

/// Makes `gateway` the default route.
pub fn default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let any = socket_address(Ipv4Addr::UNSPECIFIED);
    let route = Route {
        pad1: 0,
        destination: any,
        gateway: socket_address(gateway),
        mask: any,
        flags: RTF_UP | RTF_GATEWAY,
        pad2: 0,
        pad3: 0,
        tos: 0,
        class: 0,
        pad4: [0; 3],
        metric: 0,
        device: std::ptr::null_mut(),
        mtu: 0,
        window: 0,
        rtt: 0,
    };
    // SAFETY: SIOCADDRT reads one `struct rtentry`; `route` is one. Its device may be null.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) })
}

/// Creates a persistent tap that a user may open.
pub fn make_tap(name: &str, user: u32) -> io::Result<()> {
    let tap = open_tap(name)?;
    // SAFETY: TUNSETOWNER takes a number.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOWNER, c_ulong::from(user)) })?;
    // SAFETY: TUNSETPERSIST takes a number.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETPERSIST, 1) })
}

/// Opens a tap; it is created if there is none with this name.
pub fn open_tap(name: &str) -> io::Result<File> {
    attach(name, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR)
}

/// Makes an interface whose packets come out of a file. It goes with the file.
pub fn make_tun(name: &str) -> io::Result<File> {
    attach(name, libc::IFF_TUN | libc::IFF_NO_PI)
}

fn attach(name: &str, flags: c_int) -> io::Result<File> {
    let tun: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let flags = Union {
        ifru_flags: flags as c_short,
    };
    let request = request(name, flags)?;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`; it writes to a copy, which is not used
    // afterwards.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &mut { request }) })?;
    Ok(tun)
}

fn request(name: &str, argument: Union) -> io::Result<ifreq> {
    let mut request = ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: argument,
    };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(request)
}

/// `struct sockaddr_in` as a `struct sockaddr`.
fn socket_address(address: Ipv4Addr) -> sockaddr {
    let mut data = [0; 14];
    // The port comes first.
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = from as c_char;
    }
    sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

fn check(result: c_int) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_those_of_the_headers() {
        assert_eq!(size_of::<Route>(), 120);
        assert_eq!(size_of::<ifreq>(), 40);
        assert_eq!(size_of::<Rings>(), 36);
        let address = socket_address(Ipv4Addr::new(10, 1, 2, 3));
        assert_eq!(&address.sa_data[..6], &[0, 0, 10, 1, 2, 3]);
    }

    #[test]
    fn a_name_that_linux_would_cut_is_refused() {
        assert!(make_tap_name("tap-of-15-bytes").is_ok());
        assert!(make_tap_name("a-tap-of-16-byte").is_err());
    }

    fn make_tap_name(name: &str) -> io::Result<ifreq> {
        request(name, Union { ifru_flags: 0 })
    }
}
