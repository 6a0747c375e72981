//! A guest's second console, its sockets, its source of random numbers and a tap passed to its VMM
//! as a descriptor, across an update.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::{VSOCK_PORT, command};

use super::devices::end_io;
use super::guest::{take_over_with, update_a};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::{Guest, Spec, VMM};
use crate::network::Links;

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "devices/console-sockets-random",
    about: "a second console, listening sockets, random numbers and a tap passed as a descriptor work \
            under a new kernel",
    host: HostKind::Guest,
    stages: &[before, after],
}];

const CONSOLE: &str = "/run/ports/hvc";
const SOCKETS: &str = "/run/ports/vsock";
const LIMIT: Duration = Duration::from_secs(60);

fn spec() -> Spec {
    Spec {
        name: "ports",
        ram: "memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: Some(0),
    }
}

/// The VMM's arguments for the console and the sockets.
pub(super) fn arguments() -> [String; 2] {
    [
        format!("--hvc=socket={CONSOLE}"),
        format!("--vsock=cid=3,socket={SOCKETS}"),
    ]
}

fn before(cx: &Cx<'_>) -> Result<()> {
    let links = Links::handed_in(0)?;
    let (vmm, port) = (&mut Command::new(VMM), super::guest::port()?);
    let mut guest = Guest::boot_by(vmm, spec(), Some(&links), &arguments(), &port)?;
    drop(links);
    guest.tell(command::ECHO)?;
    guest.tell(command::RANDOM)?;
    Clients::connect()?.echo()?;
    update_a(cx, guest)
}

fn after(cx: &Cx<'_>) -> Result<()> {
    let links = Links::handed_in(0)?;
    let mut guest = take_over_with(cx, spec(), Some(&links))?;
    drop(links);
    guest.tell(command::RANDOM)?;
    Clients::connect()?.echo()?;
    cx.value("io", end_io(&mut guest)?)?;
    guest.power_off()
}

/// A client of the console and a client of a socket; the guest echoes both.
pub(super) struct Clients {
    console: BufReader<UnixStream>,
    socket: BufReader<UnixStream>,
}

impl Clients {
    pub(super) fn connect() -> Result<Self> {
        let console = BufReader::new(connect(CONSOLE)?);
        let socket = BufReader::new(socket()?);
        Ok(Self { console, socket })
    }

    pub(super) fn echo(&mut self) -> Result<()> {
        self.console_echoes()?;
        echoes(&mut self.socket).context("A socket")
    }

    pub(super) fn console_echoes(&mut self) -> Result<()> {
        echoes(&mut self.console).context("The second console")
    }

    /// The connection to the socket must have been closed.
    pub(super) fn socket_was_reset(&mut self) -> Result<()> {
        match self.socket.read(&mut [0]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            other => bail!("The connection to a socket goes on: {other:?}"),
        }
    }
}

/// A connection to the guest's echo service.
pub(super) fn socket() -> Result<UnixStream> {
    let mut socket = connect(SOCKETS)?;
    writeln!(socket, "CONNECT {VSOCK_PORT}")?;
    let mut socket = BufReader::new(socket);
    let mut answer = String::new();
    socket.read_line(&mut answer)?;
    ensure!(answer.starts_with("OK "), "The sockets say {answer:?}");
    Ok(socket.into_inner())
}

fn connect(path: &str) -> Result<UnixStream> {
    let stream = UnixStream::connect(path).with_context(|| format!("Connect to {path}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn echoes(end: &mut BufReader<UnixStream>) -> Result<()> {
    let sent: Vec<u8> = (0..=255).collect();
    end.get_mut().write_all(&sent)?;
    let mut heard = vec![0; sent.len()];
    end.read_exact(&mut heard)?;
    equal("What came back", heard, sent)
}
