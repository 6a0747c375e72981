//! The guest's second console and its sockets: whatever comes in goes out again. And its source of
//! random numbers.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread::Scope;

use anyhow::{Context, Result, ensure};
use fdbox_lab::witness::VSOCK_PORT;

const CONSOLE: &str = "/dev/hvc0";
const RANDOM: &str = "/dev/hwrng";
/// What is asked of the source of random numbers.
const RANDOM_BYTES: usize = 64;

/// Echoes on both from now on.
pub(crate) fn echo<'scope>(scope: &'scope Scope<'scope, '_>) -> Result<()> {
    let console = OpenOptions::new().read(true).write(true).open(CONSOLE);
    let console = console.with_context(|| format!("Open {CONSOLE}"))?;
    let mut settings = rustix::termios::tcgetattr(&console)?;
    settings.make_raw();
    rustix::termios::tcsetattr(&console, rustix::termios::OptionalActions::Now, &settings)?;
    let listener = listen().context("Listen on a vsock")?;
    scope.spawn(move || return_all(console));
    scope.spawn(move || {
        // One after the other: an update ends the one there is. Without a listener there is none.
        while let Ok(connection) = accept(&listener) {
            return_all(connection);
        }
    });
    Ok(())
}

/// Reads random numbers, and sees that they are no constant.
pub(crate) fn draw() -> Result<()> {
    let mut bytes = [0; RANDOM_BYTES];
    File::open(RANDOM)
        .and_then(|mut source| source.read_exact(&mut bytes))
        .with_context(|| format!("Read {RANDOM}"))?;
    ensure!(
        bytes.iter().any(|byte| *byte != bytes[0]),
        "{RANDOM} gives one byte over and over"
    );
    Ok(())
}

/// Until the other end closes it, or is gone.
fn return_all(mut end: File) {
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = end.read(&mut buffer) {
        if end.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}

fn listen() -> io::Result<OwnedFd> {
    let address = libc::sockaddr_vm {
        svm_family: libc::AF_VSOCK as libc::sa_family_t,
        svm_reserved1: 0,
        svm_port: VSOCK_PORT,
        svm_cid: libc::VMADDR_CID_ANY,
        svm_zero: [0; 4],
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes three numbers.
    let socket = descriptor(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) })?;
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is valid for the call and as long as is said.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: the call takes two numbers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 1) })?;
    Ok(socket)
}

fn accept(listener: &OwnedFd) -> io::Result<File> {
    let none = std::ptr::null_mut();
    // SAFETY: nobody wants the other end's address.
    let connection = unsafe { libc::accept(listener.as_raw_fd(), none, std::ptr::null_mut()) };
    Ok(descriptor(connection)?.into())
}

fn descriptor(number: i32) -> io::Result<OwnedFd> {
    check(number)?;
    // SAFETY: a call that just succeeded returned it, so it is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
