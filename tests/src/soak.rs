//! What `cargo lab soak` and the scenario that it runs tell each other.

use serde::{Deserialize, Serialize};

/// The environment variables with the number of updates, and with where the random choices begin.
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

/// A generator of random choices that can be repeated: SplitMix64.
#[derive(Debug)]
pub struct Choices(u64);

impl Choices {
    pub fn from(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// One of several, of which there is at least one.
    pub fn one_of<'a, T>(&mut self, several: &'a [T]) -> &'a T {
        let index = self.next() % several.len() as u64;
        &several[usize::try_from(index).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_repeatable_and_take_everything() {
        let chosen = |seed| {
            let mut choices = Choices::from(seed);
            let chosen = (0..100).map(|_| *choices.one_of(&Kind::ALL));
            chosen.collect::<Vec<_>>()
        };
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
        assert!(Kind::ALL.iter().all(|kind| chosen(1).contains(kind)));
    }
}
