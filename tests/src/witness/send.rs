//! Datagrams for somebody who takes none: the card's ring is full.

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;

use anyhow::{Context, Result};
use fdbox_lab::witness::WitnessEvent;
use fdbox_lab::{interface, net};
use rustix::event::{PollFd, PollFlags, poll};

/// The buffers of one socket hold less than the card's ring has room for.
const SOCKETS: usize = 4;
const BYTES: usize = 1400;

#[derive(Debug, Default)]
pub(crate) struct Sending {
    sockets: OnceLock<Vec<UdpSocket>>,
    datagrams: AtomicU64,
    full: AtomicU64,
}

impl Sending {
    /// Sets up the network of guest `number` and begins, unless it has.
    pub(crate) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        number: u8,
    ) -> Result<()> {
        if self.sockets.get().is_some() {
            return Ok(());
        }
        interface::configure(net::CARD, net::guest(number)).context("Set up the network card")?;
        interface::default_route(net::gateway(number)).context("Set the route")?;
        let opened = (0..SOCKETS).map(|_| open()).collect::<io::Result<_>>();
        let opened = opened.context("Open sockets")?;
        let sockets = self.sockets.get_or_init(|| opened);
        scope.spawn(move || {
            if let Err(error) = self.send(sockets) {
                eprintln!("lab-witness: cannot send: {error}");
            }
        });
        Ok(())
    }

    /// The results so far.
    pub(crate) fn event(&self) -> WitnessEvent {
        WitnessEvent::Sent {
            datagrams: self.datagrams.load(Ordering::Relaxed),
            full: self.full.load(Ordering::Relaxed),
        }
    }

    fn send(&self, sockets: &[UdpSocket]) -> io::Result<()> {
        let datagram = [0; BYTES];
        loop {
            let mut sent = 0;
            for socket in sockets {
                match socket.send(&datagram) {
                    Ok(_) => sent += 1,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            self.datagrams.fetch_add(sent, Ordering::Relaxed);
            if sent == 0 {
                self.full.fetch_add(1, Ordering::Relaxed);
                let mut room: Vec<_> = sockets
                    .iter()
                    .map(|socket| PollFd::new(socket, PollFlags::OUT))
                    .collect();
                poll(&mut room, None)?;
            }
        }
    }
}

fn open() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect((net::STUCK_PEER, net::PORT))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
