//! The card that is passed through to the guest: loads its stock driver and counts the frames that
//! arrive.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::thread::Scope;

use anyhow::{Context, Result};
use fdbox_lab::device::RING_FRAMES;
use fdbox_lab::frame::{Counted, ETHER_TYPE, FRAME_LEN};
use fdbox_lab::{interface, packet};
use rustix::net::RecvFlags;

use crate::lock;

const MODULE: &str = "/lib/modules/e1000e.ko";
const DRIVER: &str = "e1000e";
/// The socket's buffer while the witness has no CPU: holds some ten thousand frames with their
/// headers.
const BUFFER_BYTES: u32 = 8 << 20;

#[derive(Debug)]
pub(crate) struct Frames {
    socket: OwnedFd,
    counted: Mutex<Counted>,
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
            counted: Mutex::default(),
        })
    }

    /// Counts frames forever.
    fn receive(&self) {
        // One byte more than a frame has: so a frame that is too long is not mistaken for a good
        // one.
        let mut bytes = [0; FRAME_LEN + 1];
        loop {
            match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()) {
                Ok((count, _)) => lock(&self.counted).take(&bytes[..count]),
                Err(error) => {
                    // The next frame is not counted, so the comparison will find it missing.
                    eprintln!("lab-witness: The card: {error}");
                    return;
                }
            }
        }
    }

    pub(crate) fn counted(&self) -> Counted {
        lock(&self.counted).clone()
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
fn card() -> Result<String> {
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let driver = fs::read_link(entry.path().join("device/driver")).unwrap_or_default();
        if driver.file_name() == Some(Path::new(DRIVER).as_os_str()) {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("The guest has no {DRIVER}")
}
