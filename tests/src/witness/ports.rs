//! The guest's second console and its sockets, which echo everything; and its source of random
//! numbers.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread::Scope;

use anyhow::{Context, Result, ensure};
use fdbox_lab::witness::VSOCK_PORT;

const CONSOLE: &str = "/dev/hvc0";
const RANDOM: &str = "/dev/hwrng";
/// How many bytes are read from the source of random numbers.
const RANDOM_BYTES: usize = 64;

/// Echoes on both from now on.
pub(crate) fn echo<'scope>(scope: &'scope Scope<'scope, '_>) -> Result<()> {
    let console = open_console()?;
    let listener = listen().context("Listen on a vsock")?;
    scope.spawn(move || return_all(console));
    scope.spawn(move || {
        // One connection at a time: an update closes the current one. accept() fails only without a
        // listener.
        while let Ok(connection) = accept(&listener) {
            return_all(connection);
        }
    });
    Ok(())
}

/// Says so many bytes on the console from now on: its driver waits for each of them.
pub(crate) fn speak<'scope>(scope: &'scope Scope<'scope, '_>, bytes: usize) -> Result<()> {
    let mut console = open_console()?;
    scope.spawn(move || {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(bytes).collect();
        if let Err(error) = console.write_all(&bytes) {
            eprintln!("lab-witness: {CONSOLE}: {error}");
        }
    });
    Ok(())
}

fn open_console() -> Result<File> {
    let console = OpenOptions::new().read(true).write(true).open(CONSOLE);
    let console = console.with_context(|| format!("Open {CONSOLE}"))?;
    let mut settings = rustix::termios::tcgetattr(&console)?;
    settings.make_raw();
    rustix::termios::tcsetattr(&console, rustix::termios::OptionalActions::Now, &settings)?;
    Ok(console)
}

/// Reads random numbers, and checks that they are not constant.
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

/// Echoes until the other end closes the connection or is gone.
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
    // SAFETY: the address is valid during the call, and `length` is its length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: the call takes two numbers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 1) })?;
    Ok(socket)
}

fn accept(listener: &OwnedFd) -> io::Result<File> {
    let none = std::ptr::null_mut();
    // SAFETY: a null address is allowed: the peer's address is not requested.
    let connection = unsafe { libc::accept(listener.as_raw_fd(), none, std::ptr::null_mut()) };
    Ok(descriptor(connection)?.into())
}

fn descriptor(number: i32) -> io::Result<OwnedFd> {
    check(number)?;
    // SAFETY: a call that just succeeded returned it, so it is open and not owned by anything else.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
