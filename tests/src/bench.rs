//! What the bench measures in the host, in the form in which its programs pass it to the lab.

use serde::{Deserialize, Serialize};

/// The names of the values that carry [`MemfdBefore`] and [`MemfdAfter`].
pub const MEMFD_BEFORE: &str = "bench_memfd_before";
pub const MEMFD_AFTER: &str = "bench_memfd_after";

/// How a memfd's pages are laid out in the host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Pages of 4 KiB, one file filled after the other: in the order of the page allocator.
    Sequential,
    /// Pages of 4 KiB, the files filled in turn: no two neighbours belong to the same file.
    Interleaved,
    /// Pages of 2 MiB.
    Huge,
    /// The same, the files filled in turn.
    HugeInterleaved,
}

impl Layout {
    pub const ALL: [Self; 4] = [
        Self::Sequential,
        Self::Interleaved,
        Self::Huge,
        Self::HugeInterleaved,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Interleaved => "interleaved",
            Self::Huge => "huge",
            Self::HugeInterleaved => "huge-interleaved",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }

    pub fn folio_kib(self) -> u64 {
        match self {
            Self::Sequential | Self::Interleaved => 4,
            Self::Huge | Self::HugeInterleaved => 2048,
        }
    }

    /// Whether no two neighbours belong to the same file.
    pub fn is_interleaved(self) -> bool {
        matches!(self, Self::Interleaved | Self::HugeInterleaved)
    }
}

/// What keeps a memfd across the kexec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeper {
    Fdbox,
    /// The kernel's own Live Update Orchestrator.
    Luo,
}

impl Keeper {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fdbox => "fdbox",
            Self::Luo => "luo",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Fdbox, Self::Luo]
            .into_iter()
            .find(|keeper| keeper.name() == name)
    }

    /// Both, starting with this one.
    pub fn and_other(self) -> [Self; 2] {
        match self {
            Self::Fdbox => [Self::Fdbox, Self::Luo],
            Self::Luo => [Self::Luo, Self::Fdbox],
        }
    }
}

/// A memfd that the old kernel hands over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemfdBefore {
    pub keeper: Keeper,
    pub mib: u64,
    pub fill_ns: u64,
    /// Create the box and PUT_FD, or CREATE_SESSION.
    pub prepare_ns: u64,
    /// SEAL, or PRESERVE_FD.
    pub keep_ns: u64,
    /// How much of the memfd is in huge pages.
    pub huge_kib: u64,
    /// By how much the host's free memory shrank while the memfd was kept.
    pub free_fell_kib: i64,
    /// Size of the description of its pages for the next kernel: from FDBOX_INFO, or 16 bytes per
    /// folio.
    pub metadata_bytes: u64,
    /// Runs of pages, or folios.
    pub entries: u64,
}

/// The same memfd, retrieved in the new kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemfdAfter {
    pub keeper: Keeper,
    /// Open and UNSEAL the box, or open the device and RETRIEVE_SESSION.
    pub open_ns: u64,
    /// GET_FD, or RETRIEVE_FD.
    pub take_ns: u64,
    /// By how much the host's free memory shrank meanwhile.
    pub free_fell_kib: i64,
    /// Time to read a word of every page: shows work that was deferred until then.
    pub touch_ns: u64,
    /// Delete the box, or FINISH.
    pub finish_ns: u64,
}

/// The host's first task, as a word of its kernel's command line: the kernel puts it into the
/// environment of its init.
pub const FIRST: &str = "bench";

/// The names of the values that carry [`Jumped`], [`Arrived`], [`Copied`] and so on.
pub const JUMPED: &str = "bench_jumped";
pub const ARRIVED: &str = "bench_arrived";
pub const COPIED: &str = "bench_copied";
pub const WORKED: &str = "bench_worked";
/// FDBOX_INFO of a sealed guest: [`Handover`].
pub const HANDOVER: &str = "bench_handover";
/// The VMM's report of an update, and that of the guest's witness.
pub const RESUMED: &str = "bench_resumed";
pub const WITNESS: &str = "bench_witness";
/// How long a guest was paused while its VMM was replaced, in ns: with our VMM, and with QEMU.
pub const UPGRADED: &str = "bench_upgraded";
/// The phases of that, of our VMM: [`PhaseNs`].
pub const UPGRADED_PHASES: &str = "bench_upgraded_phases";
pub const CPR_TRANSFER: &str = "bench_cpr_transfer";

/// How many reads of its disk a guest got done: [`Reads`].
pub const READS: &str = "bench_reads";

/// How long a guest stood while its VMM was replaced, in ns, with as many reads in flight as fit at a drive that carries
/// out few a second.
pub const SLOW_BLACKOUT: &str = "bench_slow_blackout";

/// Set in a host whose VMM has no `--hide-cpuid`: it is of a commit before there was one.
pub const HIDES_NOTHING: &str = "LAB_VMM_HIDES_NOTHING";

/// Where QEMU is in a host that has it: `ld.so`, the program, `lib` and `rom`.
pub const QEMU: &str = "/qemu";

/// The moment at which the old kernel is left.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Jumped {
    /// The TSC then, to within a millisecond: it has to be sent before the jump.
    pub tsc: u64,
}

/// The start of the new kernel's init.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Arrived {
    /// At its first instruction.
    pub tsc: u64,
    /// CLOCK_BOOTTIME then: time before it is not part of the kernel's initialisation.
    pub boottime_ns: u64,
}

/// A guest's memory copied to a file and back, without a guest.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Copied {
    pub out_ns: u64,
    pub in_ns: u64,
}

/// Size of the description of a sealed guest for the next kernel.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Handover {
    pub bytes: u64,
    pub extents: u64,
    pub pages: u64,
}

/// How much work a guest did while nothing happened, and while its update was prepared and
/// cancelled.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub struct Worked {
    pub quiet_units: u64,
    pub quiet_ns: u64,
    /// While another program was started repeatedly.
    pub other_units: u64,
    pub other_ns: u64,
    pub busy_units: u64,
    pub busy_ns: u64,
    /// How many updates were prepared meanwhile.
    pub prepared: u64,
}

/// A drive of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drive {
    /// Each request takes its time, however many there are.
    Latent,
    /// What was read once is in the host's memory.
    Quick,
}

impl Drive {
    pub const ALL: [Self; 2] = [Self::Latent, Self::Quick];
}

/// A phase of a blackout, as the VMM reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseNs {
    pub name: String,
    pub ns: u64,
}

/// Reads of a guest's with so many in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    pub drive: Drive,
    pub depth: u32,
    pub per_second: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_what_they_name() {
        for layout in Layout::ALL {
            assert_eq!(Layout::named(layout.name()), Some(layout));
        }
        for keeper in [Keeper::Fdbox, Keeper::Luo] {
            assert_eq!(Keeper::named(keeper.name()), Some(keeper));
            assert_ne!(keeper.and_other()[0], keeper.and_other()[1]);
        }
    }
}
