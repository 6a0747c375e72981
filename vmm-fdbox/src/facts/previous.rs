//! The previous kernel, as reported by KHO.
//!
//! Linux 7.3 passes its release and a count of kexecs to the next kernel
//! (`include/linux/kho/abi/kexec_metadata.h`). That kernel shows them as raw bytes in debugfs and as a line in
//! its log, and nowhere else.

use std::fmt;
use std::fs;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::HostRoot;

const METADATA: &str = "sys/kernel/debug/kho/in/sub_fdts/kexec-metadata";
/// The version of the layout below.
const VERSION: u32 = 1;
/// `__NEW_UTS_LEN + 1`.
const RELEASE_BYTES: usize = 65;
const LOG: &str = "dev/kmsg";
const LOG_LINE: &str = "KHO: exec from: ";
/// The maximum length of a log record (`PRINTKRB_RECORD_MAX` and its prefix).
const MAX_RECORD_BYTES: usize = 8192;

/// The kernel that handed over to this one, and the number of kexecs in a row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PreviousKernel {
    /// Its release, as in `uname -r`.
    pub release: String,
    /// Kexecs since the host was switched on, including this kernel's.
    pub kexecs: u32,
}

impl PreviousKernel {
    /// Reads it; needs root. `None` if this kernel was not handed anything, or does not report it.
    #[must_use]
    pub fn read() -> Option<Self> {
        Self::read_in(&HostRoot::default())
    }

    pub(super) fn read_in(root: &HostRoot) -> Option<Self> {
        let bytes = fs::read(root.join(METADATA)).ok();
        bytes
            .and_then(|bytes| Self::of_bytes(&bytes))
            .or_else(|| Self::of_log(root))
    }

    /// Parses `struct kho_kexec_metadata`, which is packed.
    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| {
            let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        if u32_at(0)? != VERSION {
            return None;
        }
        let release = bytes.get(4..4 + RELEASE_BYTES)?;
        let release = release.split(|byte| *byte == 0).next()?;
        Self::new(
            std::str::from_utf8(release).ok()?,
            u32_at(4 + RELEASE_BYTES)?,
        )
    }

    /// Finds the kernel's line if it is still in the log. Each read returns one record.
    fn of_log(root: &HostRoot) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let log = rustix::fs::open(root.join(LOG), flags, Mode::empty()).ok()?;
        let mut record = [0; MAX_RECORD_BYTES];
        loop {
            match rustix::io::read(&log, &mut record) {
                Ok(0) => return None,
                Ok(len) => {
                    let text = String::from_utf8_lossy(&record[..len]);
                    if let Some(found) = text.lines().find_map(Self::of_record) {
                        return Some(found);
                    }
                }
                // The record was overwritten; continue with the next one.
                Err(Errno::PIPE | Errno::INTR) => {}
                // The end of the log.
                Err(_) => return None,
            }
        }
    }

    /// Parses a record such as `6,123,456,-;KHO: exec from: 7.3.4 (count 2)`. Only the kernel's own messages
    /// have facility 0; messages from programs have others.
    fn of_record(record: &str) -> Option<Self> {
        let (head, text) = record.split_once(';')?;
        let level: u32 = head.split(',').next()?.parse().ok()?;
        let (release, count) = text.strip_prefix(LOG_LINE)?.split_once(" (count ")?;
        match level < 8 {
            true => Self::new(release, count.strip_suffix(')')?.parse().ok()?),
            false => None,
        }
    }

    fn new(release: &str, kexecs: u32) -> Option<Self> {
        let is_plain = !release.is_empty() && release.chars().all(|c| c.is_ascii_graphic());
        is_plain.then(|| Self {
            release: release.to_owned(),
            kexecs,
        })
    }
}

impl fmt::Display for PreviousKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { release, kexecs } = self;
        let s = if *kexecs == 1 { "" } else { "s" };
        write!(
            f,
            "{release}, {kexecs} kexec{s} since the host was switched on"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::FakeRoot;

    fn bytes(version: u32, release: &str, kexecs: u32) -> Vec<u8> {
        let mut bytes = version.to_le_bytes().to_vec();
        bytes.extend(release.bytes());
        bytes.resize(4 + RELEASE_BYTES, 0);
        bytes.extend(kexecs.to_le_bytes());
        bytes
    }

    fn kernel(release: &str, kexecs: u32) -> Option<PreviousKernel> {
        let release = release.into();
        Some(PreviousKernel { release, kexecs })
    }

    #[test]
    fn what_kho_kept_is_read() {
        let host = FakeRoot::new();
        let read = || PreviousKernel::read_in(&host.root());
        assert_eq!(read(), None);
        host.set(METADATA, bytes(VERSION, "7.3.4-fdbox-a", 3));
        assert_eq!(read(), kernel("7.3.4-fdbox-a", 3));
        assert_eq!(
            read().unwrap().to_string(),
            "7.3.4-fdbox-a, 3 kexecs since the host was switched on"
        );
        for other in [
            bytes(2, "7.3.4", 3),
            bytes(VERSION, "", 3),
            bytes(VERSION, "7.3\x1b", 3),
            bytes(VERSION, "7.3.4", 3)[..70].to_vec(),
            Vec::new(),
        ] {
            host.set(METADATA, other);
            assert_eq!(read(), None);
        }
    }

    #[test]
    fn without_debugfs_the_log_has_it() {
        let host = FakeRoot::new();
        // The first line was written by a program.
        host.set(
            LOG,
            "12,1,5,-;KHO: exec from: 1.0 (count 9)\n6,2,5,-;KHO: exec from: 7.3.4 (count 1)\n",
        );
        assert_eq!(PreviousKernel::read_in(&host.root()), kernel("7.3.4", 1));
        for line in [
            "",
            "6,2,5,-;KHO: exec from: 7.3.4\n",
            "6,2,5,-;KHO: exec from: 7.3.4 (count x)\n",
            "6,2,5,-;x KHO: exec from: 7.3.4 (count 1)\n",
            "KHO: exec from: 7.3.4 (count 1)\n",
        ] {
            host.set(LOG, line);
            assert_eq!(PreviousKernel::read_in(&host.root()), None, "{line:?}");
        }
    }
}
