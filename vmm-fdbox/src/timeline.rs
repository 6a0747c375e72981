//! When each phase of an update began, in a form that survives a kexec.
//!
//! It takes one page at the start of the state memfd, separate from the frame, so that it can be
//! written after the frame is complete. All integers are little-endian:
//!
//! ```text
//! HEADER, 64 bytes                    MARK, 32 bytes, up to 126 of them
//!   0  8  magic "FDBXTIME"              0  20  name, NUL-padded; empty: no mark
//!   8  4  version: 1                   20   4  CRC-32 of name and ticks
//!  12  4  frequency in kHz             24   8  ticks of the cycle counter
//!  16 48  0
//! ```
//!
//! A mark records the start of a phase; the phase lasts until the next mark. Each mark has its own
//! checksum: a torn one is ignored, the others stay valid.

use std::fmt;
use std::num::NonZeroU32;

use crate::bytes::{u32_at, u64_at};
use crate::clock::ticks_to_ns;

/// The size of a timeline in the state memfd.
pub const TIMELINE_BYTES: usize = 4096;
/// The maximum length of a phase name in bytes.
pub const MAX_PHASE_NAME_BYTES: usize = 20;
/// The maximum number of marks in a timeline.
pub const MAX_MARKS: usize = (TIMELINE_BYTES - HEADER_BYTES) / MARK_BYTES;

const MAGIC: [u8; 8] = *b"FDBXTIME";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const MARK_BYTES: usize = 32;

/// The names of the phases that the library itself marks.
pub mod phase {
    /// Preflight, and everything else before the image is loaded.
    pub const PREFLIGHT: &str = "preflight";
    /// Loading the kernel, filling and sealing the box. The guest runs.
    pub const PREPARE: &str = "prepare";
    /// Bringing the guest's devices to rest. The guest runs.
    pub const QUIESCE: &str = "quiesce";
    /// Stopping the vCPUs. The blackout starts.
    pub const PAUSE: &str = "pause";
    /// Writing the VM's state.
    pub const SAVE: &str = "save";
    /// The old kernel's shutdown, up to the start of the new kernel's clock.
    pub const JUMP: &str = "jump";
    /// The new kernel's boot.
    pub const KERNEL: &str = "kernel-boot";
    /// The start of the new host's userspace, up to the VMM.
    pub const USERSPACE: &str = "userspace";
    /// Opening the box and reading the state.
    pub const TAKE_OUT: &str = "take-out";
    /// Rebuilding the VM.
    pub const RESTORE: &str = "restore";
    /// The first KVM_RUN. The blackout is over.
    pub const RUNNING: &str = "running";
}

/// Why a timeline cannot be read, extended or reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimelineError {
    /// The page does not hold a timeline.
    #[error("There is no timeline: the page does not start with 'FDBXTIME'")]
    BadMagic,
    /// A version that this library does not read.
    #[error("Timeline has version {version}, this binary reads {VERSION}")]
    UnknownVersion {
        /// The version found.
        version: u32,
    },
    /// Too short for a timeline, or without a frequency.
    #[error("Timeline is corrupt: {what}")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
    },
    /// An invalid name.
    #[error("Phase name '{name}' is not 1 to {MAX_PHASE_NAME_BYTES} printable ASCII characters")]
    BadName {
        /// The name.
        name: String,
    },
    /// No space for another mark.
    #[error("Timeline holds {MAX_MARKS} marks already")]
    Full,
    /// A mark that the report needs is missing.
    #[error("Timeline has no mark '{name}'")]
    MissingMark {
        /// The name.
        name: String,
    },
    /// The counter went backwards.
    #[error("The cycle counter went back between pause and resume: durations are unknown")]
    CounterReset,
}

/// The start of a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mark {
    /// The phase's name.
    pub name: String,
    /// The cycle counter at its start.
    pub ticks: u64,
}

/// How long a phase took.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Its length in nanoseconds.
    pub ns: u64,
}

/// An update's blackout, by phase.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// From the start of the pause to the first KVM_RUN, in nanoseconds: the sum of `phases`,
    /// except for rounding.
    pub total_ns: u64,
    /// The phases of the blackout, in order.
    pub phases: Vec<Phase>,
    /// The phases before it, while the guest ran.
    pub before: Vec<Phase>,
}

/// On one line, in milliseconds.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        write!(f, "Blackout {:.1} ms", ms(self.total_ns))?;
        let mut separator = ": ";
        for Phase { name, ns } in &self.phases {
            write!(f, "{separator}{name} {:.1}", ms(*ns))?;
            separator = ", ";
        }
        Ok(())
    }
}

/// The marks of one update.
///
/// ```
/// use std::num::NonZeroU32;
/// use vmm_fdbox::timeline::{Timeline, phase};
///
/// let mut timeline = Timeline::new(NonZeroU32::new(1_000_000).unwrap());
/// timeline.mark(phase::PAUSE, 100)?;
/// timeline.mark(phase::JUMP, 150)?;
/// timeline.mark(phase::RUNNING, 400)?;
/// let report = Timeline::decode(&timeline.encode())?.report()?;
/// assert_eq!(report.total_ns, 300);
/// assert_eq!(report.phases[1].ns, 250);
/// # Ok::<(), vmm_fdbox::timeline::TimelineError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    khz: NonZeroU32,
    marks: Vec<Mark>,
}

impl Timeline {
    /// An empty timeline of a counter with a frequency of `khz` kHz.
    #[must_use]
    pub fn new(khz: NonZeroU32) -> Self {
        Self {
            khz,
            marks: Vec::new(),
        }
    }

    /// The counter's frequency in kHz, as known to the old host.
    #[must_use]
    pub fn khz(&self) -> NonZeroU32 {
        self.khz
    }

    /// The marks, in the order in which they were added.
    #[must_use]
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Records the start of a phase. Marks need not be in order of time.
    ///
    /// # Errors
    /// [`TimelineError::BadName`] or [`TimelineError::Full`].
    pub fn mark(&mut self, name: &str, ticks: u64) -> Result<(), TimelineError> {
        if !is_phase_name(name.as_bytes()) {
            return Err(TimelineError::BadName {
                name: name.escape_debug().to_string(),
            });
        }
        if self.marks.len() == MAX_MARKS {
            return Err(TimelineError::Full);
        }
        self.marks.push(Mark {
            name: name.to_owned(),
            ticks,
        });
        Ok(())
    }

    /// The stored form of the timeline.
    #[must_use]
    pub fn encode(&self) -> [u8; TIMELINE_BYTES] {
        let mut page = [0; TIMELINE_BYTES];
        page[..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[12..16].copy_from_slice(&self.khz.get().to_le_bytes());
        for (slot, mark) in page[HEADER_BYTES..]
            .chunks_exact_mut(MARK_BYTES)
            .zip(&self.marks)
        {
            slot[..mark.name.len()].copy_from_slice(mark.name.as_bytes());
            slot[24..32].copy_from_slice(&mark.ticks.to_le_bytes());
            let checksum = mark_checksum(slot);
            slot[20..24].copy_from_slice(&checksum.to_le_bytes());
        }
        page
    }

    /// Reads a timeline from the start of `bytes`.
    ///
    /// # Errors
    /// If there is none, or one of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, TimelineError> {
        let corrupt = |what| TimelineError::Corrupt { what };
        let page = bytes
            .get(..TIMELINE_BYTES)
            .ok_or(corrupt("it is shorter than a page"))?;
        if page[..8] != MAGIC {
            return Err(TimelineError::BadMagic);
        }
        let version = u32_at(page, 8);
        if version != VERSION {
            return Err(TimelineError::UnknownVersion { version });
        }
        let khz = NonZeroU32::new(u32_at(page, 12)).ok_or(corrupt("its frequency is 0"))?;
        let marks = page[HEADER_BYTES..]
            .chunks_exact(MARK_BYTES)
            .filter_map(decode_mark)
            .collect();
        Ok(Self { khz, marks })
    }

    /// Splits the blackout into phases.
    ///
    /// # Errors
    /// [`TimelineError::MissingMark`] without a pause or a running guest,
    /// [`TimelineError::CounterReset`] if the counter did not survive.
    pub fn report(&self) -> Result<Report, TimelineError> {
        let start = self.ticks_of(phase::PAUSE)?;
        let end = self.ticks_of(phase::RUNNING)?;
        let ticks = end.checked_sub(start).ok_or(TimelineError::CounterReset)?;
        Ok(Report {
            total_ns: ticks_to_ns(ticks, self.khz),
            phases: self.phases(start, end),
            before: self.phases(0, start),
        })
    }

    fn ticks_of(&self, name: &str) -> Result<u64, TimelineError> {
        let found = self.marks.iter().rev().find(|mark| mark.name == name);
        found
            .map(|mark| mark.ticks)
            .ok_or_else(|| TimelineError::MissingMark {
                name: name.to_owned(),
            })
    }

    /// The phases that began at or after `start` and before `end`.
    fn phases(&self, start: u64, end: u64) -> Vec<Phase> {
        let mut marks: Vec<&Mark> = self
            .marks
            .iter()
            .filter(|mark| (start..end).contains(&mark.ticks))
            .collect();
        marks.sort_by_key(|mark| mark.ticks);
        let ends = marks.iter().skip(1).map(|mark| mark.ticks).chain([end]);
        let phase = |(mark, end): (&&Mark, u64)| Phase {
            name: mark.name.clone(),
            ns: ticks_to_ns(end - mark.ticks, self.khz),
        };
        marks.iter().zip(ends).map(phase).collect()
    }
}

fn is_phase_name(name: &[u8]) -> bool {
    (1..=MAX_PHASE_NAME_BYTES).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic)
}

fn mark_checksum(slot: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&slot[..MAX_PHASE_NAME_BYTES]);
    crc.update(&slot[24..]);
    crc.finalize()
}

fn decode_mark(slot: &[u8]) -> Option<Mark> {
    let name = &slot[..MAX_PHASE_NAME_BYTES];
    let name = &name[..name.iter().position(|&b| b == 0).unwrap_or(name.len())];
    if !is_phase_name(name) || mark_checksum(slot) != u32_at(slot, 20) {
        return None;
    }
    let ticks = u64_at(slot, 24);
    Some(Mark {
        name: String::from_utf8_lossy(name).into_owned(),
        ticks,
    })
}

#[cfg(test)]
mod tests;
