//! A tap: the host's end of a network device. Frames have a virtio header.

#![allow(
    unsafe_code,
    reason = "this file is the thin layer around a tap's ioctls"
)]

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

/// The Linux limit, including the NUL.
const NAME_BYTES: usize = libc::IFNAMSIZ;
/// The size of the header of each frame, `struct virtio_net_hdr_v1`.
pub(super) const HEADER: usize = 12;

ioctl_iow_nr!(TUNSETIFF, 'T' as u32, 202, c_int);
ioctl_ior_nr!(TUNGETIFF, 'T' as u32, 210, u32);
ioctl_iow_nr!(TUNSETOFFLOAD, 'T' as u32, 208, u32);
ioctl_iow_nr!(TUNSETVNETHDRSZ, 'T' as u32, 216, c_int);

/// `struct ifreq` with flags, for TUNSETIFF and TUNGETIFF.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct InterfaceFlags {
    name: [u8; NAME_BYTES],
    flags: u16,
    /// The rest of the union.
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceFlags>() == size_of::<libc::ifreq>());

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Tap {
    file: File,
}

impl Tap {
    /// Attaches to a tap, which is created if there is none of that name, and brings it up.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let mut request = request(name)?;
        request.flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is the type of `request`.
        check(unsafe { ioctl_with_mut_ref(&file, TUNSETIFF(), &mut request) })?;
        let tap = Self { file };
        tap.set_up()?;
        switch_on(request)?;
        Ok(tap)
    }

    /// Takes over a tap that another process has opened.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let mut request = request("")?;
        // SAFETY: TUNGETIFF writes one `struct ifreq`, which is the type of `request`.
        check(unsafe { ioctl_with_mut_ref(&fd, TUNGETIFF(), &mut request) })
            .map_err(|error| io::Error::new(error.kind(), "it is not a tap"))?;
        let flags = c_int::from(request.flags);
        if flags & libc::IFF_TAP == 0 || flags & libc::IFF_VNET_HDR == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a tap with IFF_TAP and IFF_VNET_HDR",
            ));
        }
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        let tap = Self { file: fd.into() };
        tap.set_up()?;
        Ok(tap)
    }

    /// Sets the header size and disables all offloads.
    fn set_up(&self) -> io::Result<()> {
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        check(unsafe { ioctl_with_ref(&self.file, TUNSETVNETHDRSZ(), &(HEADER as c_int)) })?;
        // SAFETY: TUNSETOFFLOAD takes a number.
        check(unsafe { ioctl_with_val(&self.file, TUNSETOFFLOAD(), 0) })
    }

    /// The MAC address of the host's end; `None` if it has none.
    pub(super) fn mac(&self) -> Option<[u8; 6]> {
        let mut request = request("").ok()?;
        let fd = self.file.as_raw_fd();
        // SAFETY: SIOCGIFHWADDR of a tap reads and writes a `struct ifreq`, which is the type of
        // `request`.
        let got = unsafe { libc::ioctl(fd, libc::SIOCGIFHWADDR, &raw mut request) };
        check(got).ok()?;
        // `struct sockaddr`: the family is where the flags are.
        request.rest.first_chunk().copied()
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }
}

/// Sets the MAC address of a tap's host end.
pub(super) fn set_mac(tap: &File, mac: [u8; 6]) -> io::Result<()> {
    let mut request = request("")?;
    request.flags = libc::ARPHRD_ETHER;
    request.rest[..mac.len()].copy_from_slice(&mac);
    // SAFETY: SIOCSIFHWADDR of a tap reads a `struct ifreq`, which is the type of `request`.
    let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::SIOCSIFHWADDR, &raw const request) };
    check(set)
}

fn request(name: &str) -> io::Result<InterfaceFlags> {
    let mut request = InterfaceFlags {
        name: [0; NAME_BYTES],
        flags: 0,
        rest: [0; 22],
    };
    if name.len() >= NAME_BYTES || name.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a name has at most {} bytes", NAME_BYTES - 1),
        ));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    Ok(request)
}

/// Sets IFF_UP on an interface, so that the guest's frames get through.
fn switch_on(mut request: InterfaceFlags) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").or_else(|_| {
        // A host without IPv4 may have IPv6.
        std::net::UdpSocket::bind("[::]:0")
    })?;
    let fd = socket.as_raw_fd();
    // SAFETY: `socket` outlives the call; SIOCGIFFLAGS reads the name and writes the flags of a
    // `struct ifreq`, which is the type of `request`.
    let got = unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request) };
    check(got)?;
    let up = libc::IFF_UP as u16;
    if request.flags & up != 0 {
        return Ok(());
    }
    request.flags |= up;
    // SAFETY: as above; SIOCSIFFLAGS only reads.
    let set = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) };
    check(set)
}

fn check(ret: c_int) -> io::Result<()> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_those_of_the_header() {
        assert_eq!(TUNSETIFF(), 0x4004_54ca);
        assert_eq!(TUNGETIFF(), 0x8004_54d2);
        assert_eq!(TUNSETOFFLOAD(), 0x4004_54d0);
        assert_eq!(TUNSETVNETHDRSZ(), 0x4004_54d8);
    }

    #[test]
    fn a_name_that_linux_would_cut_is_refused() {
        assert!(request("tap-of-15-bytes").is_ok());
        assert!(request("a-tap-of-16-byte").is_err());
    }

    #[test]
    fn what_is_no_tap_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(Tap::adopt(file.into()).is_err());
    }
}
