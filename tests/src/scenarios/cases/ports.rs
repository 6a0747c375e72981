//! A guest's second console, its sockets and its source of random numbers, across an update.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use fdbox_lab::witness::{VSOCK_PORT, command};

use super::guest::{take_over, update_a};
use super::{Cx, Scenario};
use crate::check::equal;
use crate::guest::{Guest, Spec};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "devices/console-sockets-random",
    about: "a second console, listening sockets and random numbers are there under a new kernel",
    host: HostKind::Guest,
    stages: &[before, after],
}];

const CONSOLE: &str = "/run/ports.hvc";
const SOCKETS: &str = "/run/ports.vsock";
const LIMIT: Duration = Duration::from_secs(20);

fn spec() -> Spec {
    Spec {
        name: "ports",
        ram: "memfd".to_owned(),
        mib: 128,
        cpus: 1,
        number: None,
    }
}

fn before(cx: &Cx<'_>) -> Result<()> {
    let more = [
        format!("--hvc=socket={CONSOLE}"),
        format!("--vsock=cid=3,socket={SOCKETS}"),
    ];
    let mut guest = Guest::boot_with(spec(), &more, &super::guest::port()?)?;
    guest.tell(command::ECHO)?;
    all_work(&mut guest)?;
    update_a(cx, guest)
}

fn after(cx: &Cx<'_>) -> Result<()> {
    let mut guest = take_over(cx, spec())?;
    all_work(&mut guest)?;
    guest.power_off()
}

fn all_work(guest: &mut Guest) -> Result<()> {
    guest.tell(command::RANDOM)?;
    let console = connect(CONSOLE)?;
    echoes(BufReader::new(console)).context("The second console")?;
    let mut socket = connect(SOCKETS)?;
    writeln!(socket, "CONNECT {VSOCK_PORT}")?;
    let mut socket = BufReader::new(socket);
    let mut answer = String::new();
    socket.read_line(&mut answer)?;
    ensure!(answer.starts_with("OK "), "The sockets say {answer:?}");
    echoes(socket).context("A socket")
}

fn connect(path: &str) -> Result<UnixStream> {
    let stream = UnixStream::connect(path).with_context(|| format!("Connect to {path}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn echoes(mut end: BufReader<UnixStream>) -> Result<()> {
    let said: Vec<u8> = (0..=255).collect();
    end.get_mut().write_all(&said)?;
    let mut heard = vec![0; said.len()];
    end.read_exact(&mut heard)?;
    equal("What came back", heard, said)
}
