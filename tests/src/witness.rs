//! What the guest's witness says on its console, and what it is told.
//!
//! The guest is the witness of an update, not the host's log: it checks its own memory and its own
//! clocks. A line of its is [`MARK`] and one JSON object; a line to it is one of the commands.

use serde::{Deserialize, Serialize};

use crate::frame::Counted;

/// Begins each line of the witness's, to tell it from its kernel's.
pub const MARK: &str = "WITNESS ";

/// The vsock port that the witness listens on.
pub const VSOCK_PORT: u32 = 7000;

/// What can be asked of the witness, one a line on its console.
pub mod command {
    /// Check every page and say [`WitnessEvent::Report`](super::WitnessEvent::Report).
    pub const REPORT: &str = "report";
    /// Forget the gaps so far.
    pub const RESET_GAP: &str = "reset-gap";
    /// `write N`: fill every page with the pattern of generation N.
    pub const WRITE: &str = "write";
    /// Work on all CPUs from now on, and say [`WitnessEvent::Work`](super::WitnessEvent::Work).
    pub const WORK: &str = "work";
    /// Work with disk and network from now on, and say [`WitnessEvent::Io`](super::WitnessEvent::Io).
    pub const IO: &str = "io";
    /// End what is done with disk and network in good order, then the same.
    pub const END_IO: &str = "end-io";
    /// Receive the frames of a card that is passed through from now on, and say
    /// [`WitnessEvent::Frames`](super::WitnessEvent::Frames).
    pub const FRAMES: &str = "frames";
    /// Keep writes to an NVMe drive that is passed through in flight from now on, and say
    /// [`WitnessEvent::Nvme`](super::WitnessEvent::Nvme).
    pub const NVME: &str = "nvme";
    /// End that in good order, then the same.
    pub const END_NVME: &str = "end-nvme";
    /// Keep writes to the disk in flight from now on, many at a time, and say [`WitnessEvent::Disk`](super::WitnessEvent::Disk).
    pub const DEEP: &str = "deep";
    /// End that in good order, then the same.
    pub const END_DEEP: &str = "end-deep";
    /// `flood N`: keep N reads of the disk in flight from now on, and say how many were done as
    /// [`WitnessEvent::Work`](super::WitnessEvent::Work).
    pub const FLOOD: &str = "flood";
    /// Return what comes on the second console and on sockets, from now on.
    pub const ECHO: &str = "echo";
    /// Read random numbers.
    pub const RANDOM: &str = "random";
    pub const POWER_OFF: &str = "poweroff";
    /// Reset the machine.
    pub const RESET: &str = "reset";
    /// Take no notice of the power button from now on.
    pub const BE_DEAF: &str = "be-deaf";
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum WitnessEvent {
    /// The pattern is written, the clocks are watched.
    Ready { pages: u64, cpus: u32 },
    /// About once a second.
    Beat { uptime_ms: u64, counter: u64 },
    /// Boxed, as is [`Io`](Self::Io): they are much larger than all the others.
    Report(Box<Report>),
    /// How much was done since the first time it was asked, and CLOCK_MONOTONIC.
    Work { units: u64, at_ns: u64 },
    /// What was done with disk and network.
    Io(Box<Io>),
    /// What came on the card that is passed through.
    Frames(Counted),
    /// What was done with the NVMe drive that is passed through.
    Nvme(Box<NvmeIo>),
    /// What was done with the disk, many requests at a time.
    Disk(Box<DiskIo>),
    /// Somebody pressed the power button: the witness switches off.
    PowerButton,
    /// A command that has no answer of its own was carried out.
    Done,
    /// The command is not one.
    What,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub boot_id: String,
    pub release: String,
    pub cpus: u32,
    /// CLOCK_BOOTTIME.
    pub uptime_ns: u64,
    /// Raw TSC at about the same time.
    pub tsc: u64,
    /// Samples taken of the clocks, on all CPUs.
    pub counter: u64,
    /// Those taken on each CPU.
    pub counters: Vec<u64>,
    /// Whether a clock, the TSC or the counter was ever seen to be less than before, on the same
    /// CPU or another.
    pub counter_went_back: bool,
    /// The first few times that happened, in words.
    pub backwards: Vec<String>,
    /// The longest time between two samples on one CPU, by CLOCK_MONOTONIC.
    pub largest_gap_ns: u64,
    /// The same by the raw TSC, at the frequency measured when the witness started.
    pub largest_gap_tsc_ns: u64,
    /// CLOCK_BOOTTIME when that gap ended.
    pub largest_gap_at_ns: u64,
    /// Pages filled with the pattern, all of them checked for this report.
    pub pages_checked: u64,
    pub pages_bad: u64,
    /// The first few bad pages, in words.
    pub bad: Vec<String>,
    /// Pages rewritten in the background so far, a few each millisecond.
    pub rewritten: u64,
    /// Suspicious lines in the guest kernel's log.
    pub kernel_warnings: u64,
    pub warnings: Vec<String>,
    /// `None` for a guest without disk and network.
    pub io: Option<Io>,
    /// `None` until a card that is passed through is asked for.
    pub frames: Option<Counted>,
}

/// What a guest has done with its disk and its network since it was up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Io {
    /// Which guest of its host it is.
    pub guest: u8,
    pub disk: DiskIo,
    pub tcp: TcpIo,
}

/// See [`disk`](crate::disk) for what is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskIo {
    pub seed: u64,
    /// Blocks written, one after the other without a hole: up to this number.
    pub writes: u64,
    /// How often the disk was asked to make everything safe.
    pub flushes: u64,
    /// Blocks read back and compared.
    pub verified: u64,
    /// Those that were not as written, and requests that failed.
    pub bad: u64,
    /// The first few of them, in words.
    pub examples: Vec<String>,
}

/// What a guest has done with an NVMe drive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NvmeIo {
    pub disk: DiskIo,
    /// Writes that were begun before the longest gap (see [`Report`]) and over after it; while some of them
    /// are not over yet, those are missing.
    pub in_flight: Vec<u64>,
}

/// The guest's end of the connection from outside, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TcpIo {
    pub sent: u64,
    pub received: u64,
    /// Of what came: numbers that were skipped, and numbers that had come before.
    pub lost: u64,
    pub repeated: u64,
    /// Why the connection ended before its time.
    pub error: Option<String>,
    /// Whether both ends have closed it in good order.
    pub ended: bool,
}

/// What the witness said on this line of its console, if it is one of its.
pub fn parse(line: &str) -> Option<WitnessEvent> {
    let (_, json) = line.split_once(MARK)?;
    serde_json::from_str(json.trim_end()).ok()
}

/// The word at `index` of a page, by the pattern.
pub fn pattern(seed: u64, page: u64, generation: u32, index: u64) -> u64 {
    // Any bit of the input changes about half of the output's: SplitMix64's finisher.
    let mut word = seed ^ (page << 20) ^ (u64::from(generation) << 52) ^ index;
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_witness_are_told_from_the_kernels() {
        let event = WitnessEvent::Ready { pages: 3, cpus: 2 };
        let line = format!("{MARK}{}", serde_json::to_string(&event).unwrap());
        assert_eq!(parse(&line), Some(event.clone()));
        assert_eq!(parse(&format!("{line}\r")), Some(event));
        assert_eq!(parse("[    1.0] Linux version 7.3.4"), None);
        assert_eq!(parse("WITNESS {\"said\":\"re"), None);
    }

    #[test]
    fn the_pattern_tells_pages_generations_and_words_apart() {
        let words = [
            pattern(1, 0, 0, 0),
            pattern(1, 1, 0, 0),
            pattern(1, 0, 1, 0),
            pattern(1, 0, 0, 1),
            pattern(2, 0, 0, 0),
        ];
        for (n, word) in words.iter().enumerate() {
            assert!(!words[..n].contains(word));
        }
    }
}
