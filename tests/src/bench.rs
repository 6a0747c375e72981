//! What the bench measures in the host, as its programs hand it to the lab.

use serde::{Deserialize, Serialize};

/// The name of the values that [`MemfdBefore`] travels under, and [`MemfdAfter`].
pub const MEMFD_BEFORE: &str = "bench_memfd_before";
pub const MEMFD_AFTER: &str = "bench_memfd_after";

/// How a memfd's pages lie in the host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Pages of 4 KiB, filled one file after the other: as the page allocator hands them out.
    Sequential,
    /// Pages of 4 KiB, filled by turns: no two neighbours belong to the same file.
    Interleaved,
    /// Pages of 2 MiB.
    Huge,
}

impl Layout {
    pub const ALL: [Self; 3] = [Self::Sequential, Self::Interleaved, Self::Huge];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Interleaved => "interleaved",
            Self::Huge => "huge",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }

    pub fn folio_kib(self) -> u64 {
        match self {
            Self::Sequential | Self::Interleaved => 4,
            Self::Huge => 2048,
        }
    }
}

/// Who keeps a memfd across the kexec.
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

    /// Both, this one first.
    pub fn and_other(self) -> [Self; 2] {
        match self {
            Self::Fdbox => [Self::Fdbox, Self::Luo],
            Self::Luo => [Self::Luo, Self::Fdbox],
        }
    }
}

/// A memfd handed over in the old kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemfdBefore {
    pub keeper: Keeper,
    pub mib: u64,
    pub fill_ns: u64,
    /// Create the box and PUT_FD, or CREATE_SESSION.
    pub prepare_ns: u64,
    /// SEAL, or PRESERVE_FD.
    pub keep_ns: u64,
    /// How much of the memfd the kernel has in huge pages.
    pub huge_kib: u64,
    /// By how much the host's free memory fell while it was kept.
    pub free_fell_kib: i64,
    /// What describes its pages to the next kernel: reported by FDBOX_INFO, or 16 bytes a folio.
    pub metadata_bytes: u64,
    /// Runs of pages, or folios.
    pub entries: u64,
}

/// The same memfd taken back in the new kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemfdAfter {
    pub keeper: Keeper,
    /// Open and UNSEAL the box, or open the device and RETRIEVE_SESSION.
    pub open_ns: u64,
    /// GET_FD, or RETRIEVE_FD.
    pub take_ns: u64,
    /// By how much the host's free memory fell meanwhile.
    pub free_fell_kib: i64,
    /// Read a word of every page: shows work that was put off until then.
    pub touch_ns: u64,
    /// Delete the box, or FINISH.
    pub finish_ns: u64,
}

/// What the host is told to do first of all, as a word of its kernel's command line: the kernel
/// puts it into the environment of its init.
pub const FIRST: &str = "bench";

/// The name of the values that [`Jumped`] travels under, [`Arrived`], [`Copied`] and so on.
pub const JUMPED: &str = "bench_jumped";
pub const ARRIVED: &str = "bench_arrived";
pub const COPIED: &str = "bench_copied";
pub const WORKED: &str = "bench_worked";
/// FDBOX_INFO of a guest that is in its box: [`Handover`].
pub const HANDOVER: &str = "bench_handover";
/// What the VMM reports of an update, and the guest's witness.
pub const RESUMED: &str = "bench_resumed";
pub const WITNESS: &str = "bench_witness";
/// How long a guest stood while its VMM was replaced, in ns: ours, and QEMU's.
pub const UPGRADED: &str = "bench_upgraded";
pub const CPR_TRANSFER: &str = "bench_cpr_transfer";

/// Where QEMU lies in a host that has it: `ld.so`, the program, `lib` and `rom`.
pub const QEMU: &str = "/qemu";

/// The old kernel is left.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Jumped {
    /// The TSC when it was, to a millisecond: it has to be told before.
    pub tsc: u64,
}

/// The new kernel's init runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Arrived {
    /// With its first instruction.
    pub tsc: u64,
    /// CLOCK_BOOTTIME then: what came before it is not the kernel's initialisation.
    pub boottime_ns: u64,
}

/// A guest's memory copied into a file and back, without a guest.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Copied {
    pub out_ns: u64,
    pub in_ns: u64,
}

/// What describes a sealed guest to the next kernel.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Handover {
    pub bytes: u64,
    pub extents: u64,
    pub pages: u64,
}

/// How much a guest did while nothing happened, and while its update was prepared and called off.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub struct Worked {
    pub quiet_units: u64,
    pub quiet_ns: u64,
    /// While another program was started again and again.
    pub other_units: u64,
    pub other_ns: u64,
    pub busy_units: u64,
    pub busy_ns: u64,
    /// How many updates were prepared meanwhile.
    pub prepared: u64,
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
