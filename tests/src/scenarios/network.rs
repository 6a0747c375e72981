//! The host's part of the lab's network: its card, a tap for each guest, and the way between them.

use std::process::Command;

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

/// Gives a guest that is about to be started guest `number`'s drive and tap, and its kernel a
/// command line. It shares the host with so many `guests`, itself among them.
pub(crate) fn give(run: &mut Command, cmdline: &str, number: Option<u8>, guests: u8) -> Result<()> {
    let pace = format!("{}={}", net::PACE_WORD, net::pace_among(guests));
    let Some(number) = number else {
        run.arg("--cmdline").arg(format!("{cmdline} {pace}"));
        return Ok(());
    };
    set_up(number)?;
    let drive = char::from(b'a' + number);
    run.arg(format!("--disk=path=/dev/vd{drive}"));
    run.arg(format!("--net=tap={}", net::tap(number)));
    run.arg("--cmdline");
    run.arg(format!("{cmdline} {pace} {}={number}", net::GUEST_WORD));
    Ok(())
}
