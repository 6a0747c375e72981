//! Numbered frames that arrive at a host's device from outside, one every few milliseconds,
//! independently of the host.
//!
//! The socket does not buffer frames that the device does not take: the next frame waits instead.
//! So a device that pauses loses no frame, and a device that loses one is faulty.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fdbox_lab::frame::frame;

/// The socket of device number `nic`, in the run's folder.
pub(crate) fn socket(nic: u8) -> String {
    format!("net{nic}.sock")
}

/// How long QEMU may take to open its sockets.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// Time between frames.
const INTERVAL: Duration = Duration::from_millis(5);

/// When each frame was taken, by its number: time since the machine was started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(pub(crate) Vec<Duration>);

/// Sends until it is dropped.
#[derive(Debug)]
pub(crate) struct Frames {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Sent>>,
}

impl Frames {
    /// Sends to device number `nic` of a machine that was started at `started`. The device's socket
    /// will soon be in the run's folder.
    pub(crate) fn send(dir: &Path, nic: u8, started: Instant) -> Result<Self> {
        let socket = dir.join(socket(nic));
        let sender = UnixDatagram::unbound()?;
        sender.set_nonblocking(true)?;
        let deadline = Instant::now() + OPEN_LIMIT;
        while let Err(error) = connect(&sender, &socket) {
            if Instant::now() > deadline {
                return Err(error).context("QEMU does not open the device's socket");
            }
            // The socket is created by another process, and there is nothing to wait on.
            std::thread::sleep(Duration::from_millis(20));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || send_all(&sender, nic, started, &stopped));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops sending.
    pub(crate) fn end(mut self) -> Sent {
        self.stop()
    }

    fn stop(&mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        // The thread cannot panic.
        let sent = self.thread.take().map(|thread| thread.join().ok());
        sent.flatten().unwrap_or_default()
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How many frames the kernel queues for a device that takes none (net.unix.max_dgram_qlen), plus
/// the one that QEMU has read.
pub(crate) fn most_on_the_way() -> Result<u64> {
    let path = "/proc/sys/net/unix/max_dgram_qlen";
    let text = std::fs::read_to_string(path).with_context(|| format!("Read {path}"))?;
    // The kernel compares the queue's length before it adds a frame.
    Ok(text.trim().parse::<u64>()? + 2)
}

/// Connects even if the folder's path is too long for a socket address.
fn connect(sender: &UnixDatagram, socket: &Path) -> Result<()> {
    let name = socket.file_name().context("A socket has a name")?;
    let dir = File::open(socket.parent().context("A socket lies in a folder")?)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok(sender.connect(short)?)
}

fn send_all(sender: &UnixDatagram, nic: u8, started: Instant, stop: &AtomicBool) -> Sent {
    let mut sent = Sent::default();
    while !stop.load(Ordering::Relaxed) {
        match sender.send(&frame(nic, sent.0.len() as u64)) {
            Ok(_) => sent.0.push(started.elapsed()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The machine is gone.
            Err(_) => break,
        }
        std::thread::sleep(INTERVAL);
    }
    sent
}
