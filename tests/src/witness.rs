//! The messages of the guest's witness on its console, and its commands.
//!
//! The guest, not the host's log, is the witness of an update: it checks its own memory and its own
//! clocks. A line from it is [`MARK`] and one JSON object; a line to it is one of the commands.

use serde::{Deserialize, Serialize};

use crate::clocks::Sample;
use crate::frame::Counted;

/// Begins each line of the witness, to distinguish it from its kernel's lines.
pub const MARK: &str = "WITNESS ";

/// The file in the guest with the paths of the modules that it loads at once, one per line, in order.
pub const MODULES: &str = "/lib/modules/at-once";

/// `paused NAME` tells the lab that guest NAME is paused before its update and after it.
pub const PAUSED: &str = "paused";

/// The vsock port that the witness listens on.
pub const VSOCK_PORT: u32 = 7000;

/// The commands of the witness, one per line on its console.
pub mod command {
    /// Check every page and send [`WitnessEvent::Report`](super::WitnessEvent::Report).
    pub const REPORT: &str = "report";
    /// Discard the gaps measured so far.
    pub const RESET_GAP: &str = "reset-gap";
    /// `write N`: fill every page with the pattern of generation N.
    pub const WRITE: &str = "write";
    /// Work on all CPUs from now on, and send [`WitnessEvent::Work`](super::WitnessEvent::Work).
    pub const WORK: &str = "work";
    /// Use disk and network from now on, and send [`WitnessEvent::Io`](super::WitnessEvent::Io).
    pub const IO: &str = "io";
    /// Stop using disk and network in an orderly way, then the same.
    pub const END_IO: &str = "end-io";
    /// Receive the frames of a passed-through card from now on, and send
    /// [`WitnessEvent::Frames`](super::WitnessEvent::Frames).
    pub const FRAMES: &str = "frames";
    /// Read a register of that card all the time from now on, and send
    /// [`WitnessEvent::Registers`](super::WitnessEvent::Registers).
    pub const REGISTERS: &str = "registers";
    /// Keep writes in flight on a passed-through NVMe drive from now on, and send
    /// [`WitnessEvent::Nvme`](super::WitnessEvent::Nvme).
    pub const NVME: &str = "nvme";
    /// Stop that in an orderly way, then the same.
    pub const END_NVME: &str = "end-nvme";
    /// Keep many writes in flight on the disk from now on, and send
    /// [`WitnessEvent::Disk`](super::WitnessEvent::Disk).
    pub const DEEP: &str = "deep";
    /// Stop that in an orderly way, then the same.
    pub const END_DEEP: &str = "end-deep";
    /// `flood N`: keep N reads in flight on the disk from now on, and send how many completed as
    /// [`WitnessEvent::Work`](super::WitnessEvent::Work).
    pub const FLOOD: &str = "flood";
    /// `send N`, of guest number N: send datagrams to where nobody takes any from now on, as many as there is room for, and
    /// say [`WitnessEvent::Sent`](super::WitnessEvent::Sent).
    pub const SEND: &str = "send";
    /// `speak N`: say N bytes on the second console, from now on.
    pub const SPEAK: &str = "speak";
    /// Echo everything that arrives on the second console and on sockets, from now on.
    pub const ECHO: &str = "echo";
    /// Read random numbers.
    pub const RANDOM: &str = "random";
    /// `run COMMAND`, of a witness that is a service: run it in a shell, and send
    /// [`WitnessEvent::Ran`](super::WitnessEvent::Ran).
    pub const RUN: &str = "run";
    /// Read all clocks at once, and send [`WitnessEvent::Clocks`](super::WitnessEvent::Clocks).
    pub const CLOCKS: &str = "clocks";
    pub const POWER_OFF: &str = "poweroff";
    /// Reset the machine.
    pub const RESET: &str = "reset";
    /// Ignore the power button from now on.
    pub const BE_DEAF: &str = "be-deaf";
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum WitnessEvent {
    /// The pattern is written, and the clocks are being watched.
    Ready { pages: u64, cpus: u32 },
    /// About once a second.
    Beat { uptime_ms: u64, counter: u64 },
    /// Boxed, like [`Io`](Self::Io): they are much larger than the other variants.
    Report(Box<Report>),
    /// How much work was done since it was first requested, and CLOCK_MONOTONIC.
    Work { units: u64, at_ns: u64 },
    /// How many datagrams were sent, and how often there was room for none.
    Sent { datagrams: u64, full: u64 },
    /// The results of disk and network.
    Io(Box<Io>),
    /// The frames received by the passed-through card.
    Frames(Counted),
    /// How often a register of that card was read, and how often it had another value than its own.
    Registers { reads: u64, wrong: u64 },
    /// The results of the passed-through NVMe drive.
    Nvme(Box<NvmeIo>),
    /// The results of the disk with many requests in flight.
    Disk(Box<DiskIo>),
    /// A command ended with this status, -1 if a signal killed it; its output.
    Ran { status: i32, text: String },
    /// The clocks.
    Clocks(Sample),
    /// How far the boot of a guest with an init of its own is, or its end.
    Stage { name: String },
    /// The power button was pressed: the witness powers off.
    PowerButton,
    /// A command without an answer of its own was carried out.
    Done,
    /// The command is unknown.
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
    /// Samples of the clocks, on all CPUs.
    pub counter: u64,
    /// Samples on each CPU.
    pub counters: Vec<u64>,
    /// Whether a clock, the TSC or the counter was ever seen to be lower than before, on the same
    /// CPU or another.
    pub counter_went_back: bool,
    /// Descriptions of the first few such cases.
    pub backwards: Vec<String>,
    /// The longest time between two samples on one CPU, by CLOCK_MONOTONIC.
    pub largest_gap_ns: u64,
    /// The same measured with the raw TSC, at the frequency determined when the witness started.
    pub largest_gap_tsc_ns: u64,
    /// CLOCK_BOOTTIME at the end of that gap.
    pub largest_gap_at_ns: u64,
    /// Pages filled with the pattern; all of them were checked for this report.
    pub pages_checked: u64,
    pub pages_bad: u64,
    /// Descriptions of the first few bad pages.
    pub bad: Vec<String>,
    /// Pages rewritten in the background so far, a few per millisecond.
    pub rewritten: u64,
    /// Suspicious lines in the guest kernel's log.
    pub kernel_warnings: u64,
    pub warnings: Vec<String>,
    /// `None` for a guest without disk and network.
    pub io: Option<Io>,
    /// `None` until the frames of a passed-through card are first requested.
    pub frames: Option<Counted>,
}

/// What a guest did with its disk and its network since it started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Io {
    /// The guest's number on its host.
    pub guest: u8,
    pub disk: DiskIo,
    pub tcp: TcpIo,
}

/// See [`disk`](crate::disk) for the pattern.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskIo {
    pub seed: u64,
    /// The highest number up to which all blocks were written without a gap.
    pub writes: u64,
    /// The number of flushes sent to the disk.
    pub flushes: u64,
    /// Blocks read back and compared.
    pub verified: u64,
    /// Blocks that were not as written, and requests that failed.
    pub bad: u64,
    /// Descriptions of the first few of them.
    pub examples: Vec<String>,
}

/// What a guest did with an NVMe drive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NvmeIo {
    pub disk: DiskIo,
    /// Writes that began before the longest gap (see [`Report`]) and completed after it; writes
    /// that are still in flight are not included.
    pub in_flight: Vec<u64>,
}

/// The guest's end of the connection from outside, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TcpIo {
    pub sent: u64,
    pub received: u64,
    /// Of the received data: numbers that were skipped, and numbers that were received before.
    pub lost: u64,
    pub repeated: u64,
    /// Why the connection ended early.
    pub error: Option<String>,
    /// Whether both ends closed it in an orderly way.
    pub ended: bool,
}

/// The event of the witness in this console line, if it has one.
pub fn parse(line: &str) -> Option<WitnessEvent> {
    let (_, json) = line.split_once(MARK)?;
    serde_json::from_str(json.trim_end()).ok()
}

/// The word at `index` of a page, by the pattern.
pub fn pattern(seed: u64, page: u64, generation: u32, index: u64) -> u64 {
    // Any bit of the input changes about half of the output's bits: SplitMix64's finaliser.
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
