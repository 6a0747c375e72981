//! The host's part of the lab's network: its card, a tap for each guest, and the way between them.

use anyhow::{Context, Result};
use fdbox_lab::{interface, net};

/// Sets up the card and guest `number`'s tap. Before the guest is there: it finds all as it was.
pub(crate) fn set_up(number: u8) -> Result<()> {
    interface::configure(net::CARD, net::HOST).context("Set up the host's network card")?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("Switch on routing")?;
    let tap = net::tap(number);
    interface::make_tap(&tap).with_context(|| format!("Make {tap}"))?;
    interface::configure(&tap, net::gateway(number)).with_context(|| format!("Set up {tap}"))
}

/// The drive that is guest `number`'s disk.
pub(crate) fn disk(number: u8) -> String {
    format!("/dev/vd{}", char::from(b'a' + number))
}

/// What the VMM is told of a guest's disk and network.
pub(crate) fn devices(number: u8) -> [String; 2] {
    [
        format!("--disk=path={}", disk(number)),
        format!("--net=tap={}", net::tap(number)),
    ]
}

/// The guest's kernel command line.
pub(crate) fn cmdline(base: &str, number: u8) -> String {
    format!("{base} {}={number}", net::GUEST_WORD)
}
