//! The card that is passed through to the guest: loads its stock driver and counts the frames that
//! arrive.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::thread::Scope;

use anyhow::{Context, Result};
use fdbox_lab::clocks::now_ns;
use fdbox_lab::device::RING_FRAMES;
use fdbox_lab::frame::{Counted, ETHER_TYPE, FRAME_LEN};
use fdbox_lab::{interface, packet};
use rustix::net::RecvFlags;
use rustix::thread::ClockId;

use crate::lock;

const MODULE: &str = "/lib/modules/e1000e.ko";
const DRIVER: &str = "e1000e";
/// The socket's buffer while the witness has no CPU: holds some ten thousand frames with their
/// headers.
const BUFFER_BYTES: u32 = 8 << 20;

#[derive(Debug)]
pub(crate) struct Frames {
    socket: OwnedFd,
    seen: Mutex<Seen>,
}

/// The frames, and when they came. All times are CLOCK_MONOTONIC.
#[derive(Debug, Default)]
struct Seen {
    counted: Counted,
    /// When the last intact frame came, or the gaps were discarded since.
    since_ns: Option<u64>,
    /// The largest gap that has ended.
    largest_gap_ns: u64,
}

impl Seen {
    fn take(&mut self, bytes: &[u8], now_ns: u64) {
        let before = self.counted.received;
        self.counted.take(bytes);
        // A frame that came again, or torn, shows nothing of what is missing.
        if self.counted.received > before {
            self.largest_gap_ns = self.gap_ns(now_ns);
            self.since_ns = Some(now_ns);
        }
    }

    /// The largest gap so far, which may be the one that has not ended.
    fn gap_ns(&self, now_ns: u64) -> u64 {
        let open = self.since_ns.map(|since| now_ns.saturating_sub(since));
        self.largest_gap_ns.max(open.unwrap_or(0))
    }

    /// Time before this is part of no gap.
    fn reset_gap(&mut self, now_ns: u64) {
        self.since_ns = Some(now_ns);
        self.largest_gap_ns = 0;
    }

    fn counted(&self, now_ns: u64) -> Counted {
        Counted {
            largest_gap_ns: self.gap_ns(now_ns),
            ..self.counted.clone()
        }
    }
}

fn monotonic_ns() -> u64 {
    now_ns(ClockId::Monotonic)
}

impl Frames {
    /// Loads the driver and brings the card up, with a ring of maximum length.
    fn open() -> Result<Self> {
        let module = File::open(MODULE).with_context(|| format!("Open {MODULE}"))?;
        rustix::system::finit_module(&module, c"", 0).with_context(|| format!("Load {MODULE}"))?;
        let card = card()?;
        // Before the interface is up: a change of the ring would restart it.
        interface::set_receive_ring(&card, RING_FRAMES).context("Set the card's ring")?;
        interface::switch_on(&card).context("Switch the card on")?;
        // Earlier frames do not count: the first frame counted defines the first number expected.
        let socket =
            packet::open(&card, ETHER_TYPE, BUFFER_BYTES).context("Open a packet socket")?;
        Ok(Self {
            socket,
            seen: Mutex::default(),
        })
    }

    /// Counts frames forever.
    fn receive(&self) {
        // One byte more than a frame has: so a frame that is too long is not mistaken for a good
        // one.
        let mut bytes = [0; FRAME_LEN + 1];
        loop {
            match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
                Ok((count, _)) => lock(&self.seen).take(&bytes[..count], monotonic_ns()),
                Err(error) => {
                    // The next frame is not counted, so the comparison will find it missing.
                    eprintln!("lab-witness: The card: {error}");
                    return;
                }
            }
        }
    }

    pub(crate) fn counted(&self) -> Counted {
        lock(&self.seen).counted(monotonic_ns())
    }

    pub(crate) fn reset_gap(&self) {
        lock(&self.seen).reset_gap(monotonic_ns());
    }
}

/// The frames so far; counting begins with the first request.
pub(crate) fn counted<'scope>(
    frames: &'scope OnceLock<Frames>,
    scope: &'scope Scope<'scope, '_>,
) -> Result<Counted> {
    if let Some(frames) = frames.get() {
        return Ok(frames.counted());
    }
    let opened = Frames::open()?;
    let frames = frames.get_or_init(|| opened);
    scope.spawn(|| frames.receive());
    Ok(frames.counted())
}

/// The interface that the driver created.
pub(crate) fn card() -> Result<String> {
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let driver = fs::read_link(entry.path().join("device/driver")).unwrap_or_default();
        if driver.file_name() == Some(Path::new(DRIVER).as_os_str()) {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("The guest has no {DRIVER}")
}

#[cfg(test)]
mod tests {
    use fdbox_lab::frame::frame;

    use super::*;

    #[test]
    fn a_gap_lasts_from_frame_to_frame_or_is_still_open() {
        let mut seen = Seen::default();
        assert_eq!(seen.counted(100).largest_gap_ns, 0, "None is expected yet");
        for (number, at_ns) in [(1, 100), (2, 130), (3, 140)] {
            seen.take(&frame(0, number), at_ns);
        }
        assert_eq!(seen.counted(150).largest_gap_ns, 30);
        // Neither ends the gap that is open.
        seen.take(&frame(0, 3), 160);
        seen.take(&frame(0, 4)[..60], 170);
        assert_eq!(seen.counted(180).largest_gap_ns, 40);
        seen.take(&frame(0, 4), 190);
        assert_eq!(seen.counted(200).largest_gap_ns, 50);
        assert_eq!(seen.counted(200).received, 4);
    }

    #[test]
    fn time_before_a_reset_is_in_no_gap() {
        let mut seen = Seen::default();
        seen.take(&frame(0, 1), 100);
        seen.take(&frame(0, 2), 200);
        seen.reset_gap(250);
        assert_eq!(seen.counted(250).largest_gap_ns, 0);
        seen.take(&frame(0, 3), 260);
        assert_eq!(seen.counted(265).largest_gap_ns, 10);
    }
}
