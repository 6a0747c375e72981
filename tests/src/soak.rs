//! What `cargo lab soak` and the scenario that it runs tell each other.

use serde::{Deserialize, Serialize};

/// The environment variables with the number of updates, and with where the random choices begin.
/// Across kexecs the number is that of each kernel.
pub const UPDATES: &str = "LAB_SOAK_UPDATES";
pub const SEED: &str = "LAB_SOAK_SEED";
/// The name under which a [`Sample`] is sent.
pub const SAMPLE: &str = "soak";

/// What was done to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Another process of the VMM took it over.
    Replaced,
    /// The same, but a step failed.
    ReplacementFailed,
    /// The new VMM ended in the middle.
    NewVmmEnded,
    /// The host was to be updated, but a step failed.
    HostUpdateFailed,
    /// The same, but it was cancelled.
    HostUpdateCancelled,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Replaced,
        Self::ReplacementFailed,
        Self::NewVmmEnded,
        Self::HostUpdateFailed,
        Self::HostUpdateCancelled,
    ];
}

/// The host after one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// From 1.
    pub update: u64,
    /// By how many kexecs in a row the host's kernel came up.
    pub kexecs: u64,
    pub kind: Kind,
    pub blackout_ns: Option<u64>,
    pub available_kib: u64,
    pub unreclaimable_slab_kib: u64,
    pub vmalloc_kib: u64,
    /// Files that are open in the whole host.
    pub open_files: u64,
    pub vmm_fds: u64,
    pub vmm_threads: u64,
    /// Of the VMM, without the guest's memory.
    pub vmm_anonymous_kib: u64,
}
