//! The world outside the host: a TCP/IP stack at the other end of its network cable, which talks to
//! the guests. It is not part of the host, so it continues while the host is updated.

mod conversation;
mod ping;
mod wire;

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context, Result, anyhow};
use fdbox_lab::net;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};

use conversation::Conversation;
pub(crate) use conversation::Talked;
pub(crate) use ping::Pinged;
use wire::Wire;

/// Locally administered and unique.
const ADDRESS: EthernetAddress = EthernetAddress([0x02, 0x77, 0, 0, 0, 1]);
/// How often data is sent to a guest; with several guests, less often to each.
const TICK: Duration = Duration::from_millis(20);

/// What was seen of one guest from outside.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) tcp: Talked,
    pub(crate) ping: Pinged,
}

/// The outside, running until the host is off.
#[derive(Debug)]
pub(crate) struct Outside(JoinHandle<Result<Vec<Seen>>>);

impl Outside {
    /// Talks to `guests` guests over this cable: QEMU's stream of frames.
    pub(crate) fn start(cable: UnixStream, guests: u8) -> Result<Self> {
        let wire = Wire::new(cable)?;
        let thread = std::thread::Builder::new().name("outside".into());
        Ok(Self(thread.spawn(move || run(wire, guests))?))
    }

    /// The results, by the guest's number. The host must be off.
    pub(crate) fn end(self) -> Result<Vec<Seen>> {
        let seen = self.0.join();
        seen.map_err(|_| anyhow!("The outside panicked"))?
    }
}

fn run(mut wire: Wire, guests: u8) -> Result<Vec<Seen>> {
    let started = Clock::now();
    let now = |started: Clock| Instant::from_micros(started.elapsed().as_micros() as i64);
    let mut config = Config::new(ADDRESS.into());
    config.random_seed = fdbox_lab::tsc();
    let mut interface = Interface::new(config, &mut wire, now(started));
    interface.update_ip_addrs(|addresses| {
        // There is room for one address.
        let _ = addresses.push(IpCidr::new(net::OUTSIDE.into(), 24));
    });
    let routes = interface.routes_mut();
    routes
        .add_default_ipv4_route(net::HOST)
        .context("There is room for one route")?;

    let mut sockets = SocketSet::new(Vec::new());
    let mut conversations: Vec<Conversation> = (0..guests)
        .map(|guest| Conversation::new(guest, &mut sockets))
        .collect();
    let period = TICK * net::pace_among(guests);
    let mut next_tick = Clock::now();
    while wire.pump()? {
        interface.poll(now(started), &mut wire, &mut sockets);
        let tick = Clock::now() >= next_tick;
        if tick {
            next_tick = Clock::now() + period;
        }
        for conversation in &mut conversations {
            conversation.go_on(&mut sockets, interface.context(), tick);
        }
        interface.poll(now(started), &mut wire, &mut sockets);
        let delay = interface.poll_delay(now(started), &sockets);
        let delay = delay.map_or(period, |delay| Duration::from_micros(delay.total_micros()));
        wire.wait(delay.min(next_tick.saturating_duration_since(Clock::now())))?;
    }
    Ok(conversations.into_iter().map(Conversation::seen).collect())
}
