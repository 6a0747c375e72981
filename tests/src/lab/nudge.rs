//! Wakes a machine that hangs because the emulator lost an interrupt.
//!
//! Occasionally QEMU's emulation of a host with guests loses an interrupt: it is pending in the
//! local APIC (`evidence.txt` of such a run: IRR 236, the timer) while the CPU sleeps with
//! interrupts enabled and is never notified. The most likely cause is the field with a CPU's
//! pending interrupts, which the emulation of SVM changes without a lock when it enters and leaves
//! a guest. A host whose only CPU goes to sleep after that has nothing left to wake it: it hangs
//! until any other interrupt arrives, and then continues as if nothing had happened.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::net::SendFlags;

/// How long a machine must be silent before it is nudged. A healthy machine is not affected.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);

/// Interrupts a machine with a byte on its event port, where nothing reads.
#[derive(Debug)]
pub(crate) struct Nudge {
    port: UnixStream,
    /// The times of the nudges, in seconds since the start.
    log: File,
}

impl Nudge {
    /// `port` is the lab's end of the event port; the log goes into `dir`.
    pub(crate) fn new(port: UnixStream, dir: &Path) -> Result<Self> {
        let log = File::create(dir.join("nudges.log"))?;
        Ok(Self { port, log })
    }

    pub(crate) fn give(&mut self, at: Duration) {
        // Neither failure matters: a machine that takes no more bytes has been nudged often enough,
        // and a reader notices if the machine is gone.
        let _ = rustix::net::send(&self.port, b"\n", SendFlags::DONTWAIT);
        let _ = writeln!(self.log, "{:9.3}", at.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_nudge_is_a_byte_and_a_full_port_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut nudge = Nudge::new(near, dir.path()).unwrap();
        for second in 0..2000 {
            nudge.give(Duration::from_secs(second));
        }
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"\n");
        let log = std::fs::read_to_string(dir.path().join("nudges.log")).unwrap();
        assert_eq!(log.lines().count(), 2000);
    }
}
