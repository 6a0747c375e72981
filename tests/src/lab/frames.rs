//! What arrives at a host's device from outside, whatever the host does: numbered frames, one
//! every few milliseconds.
//!
//! The socket has no room for frames that the device does not take: then the next one waits, so a
//! device that pauses loses none, and one that loses any is at fault.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use fdbox_lab::frame::frame;

/// The end of device number `nic`, in the run's folder.
pub(crate) fn socket(nic: usize) -> String {
    format!("net{nic}.sock")
}

/// Time between frames.
const INTERVAL: Duration = Duration::from_millis(5);

/// Sends until it is dropped.
#[derive(Debug)]
pub(crate) struct Frames {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Frames {
    /// Sends to a device whose socket is there.
    pub(crate) fn send(socket: &Path) -> Result<Self> {
        let sender = UnixDatagram::unbound()?;
        sender.set_nonblocking(true)?;
        connect(&sender, socket).context("Connect to the device's socket")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || send_all(&sender, &stopped));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to panic on, and nothing to say.
            let _ = thread.join();
        }
    }
}

/// The folder may have a path too long for a socket address.
fn connect(sender: &UnixDatagram, socket: &Path) -> Result<()> {
    let name = socket.file_name().context("A socket has a name")?;
    let dir = File::open(socket.parent().context("A socket lies in a folder")?)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok(sender.connect(short)?)
}

fn send_all(sender: &UnixDatagram, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        match sender.send(&frame(number)) {
            Ok(_) => number += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The machine is gone.
            Err(_) => return,
        }
        std::thread::sleep(INTERVAL);
    }
}
