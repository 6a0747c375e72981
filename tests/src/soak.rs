//! What `cargo lab soak` and the scenarios that it runs tell each other, and when something was leaked.
//!
//! A [`Sample`] follows each update. What is in use for a while comes and goes, and what was leaked stays. So the least
//! figures of two times are compared: of the first and the last updates in one kernel, and of two kernels of the same
//! build that a kexec booted.

use anyhow::{Context, Result, ensure};
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
    /// All memory of the kernel, without what it reserved while it booted. What the last kernel preserved is part of it
    /// once it has been restored.
    pub total_kib: u64,
    /// What is in none of the kernel's counters: pages that were allocated directly.
    pub uncounted_kib: u64,
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

/// A figure, by how much it may grow in all, and in addition for each update.
type Limit = (&'static str, fn(&Sample) -> i64, i64, i64);

const RESERVED: Limit = ("reserved memory, KiB", |it| -(it.total_kib as i64), 256, 0);

const LIMITS: &[Limit] = &[
    (
        "memory in use, KiB",
        |it| it.total_kib as i64 - it.available_kib as i64,
        4096,
        4,
    ),
    // Each kernel has one next kernel less in its initramfs, so memory in use cannot show what a kexec leaks: these can.
    RESERVED,
    (
        "pages in no counter, KiB",
        |it| it.uncounted_kib as i64,
        2048,
        1,
    ),
    (
        "unreclaimable slab, KiB",
        |it| it.unreclaimable_slab_kib as i64,
        1024,
        1,
    ),
    ("vmalloc, KiB", |it| it.vmalloc_kib as i64, 512, 1),
    ("open files", |it| it.open_files as i64, 32, 0),
    ("the VMM's FDs", |it| it.vmm_fds as i64, 0, 0),
    ("the VMM's threads", |it| it.vmm_threads as i64, 1, 0),
    (
        "the VMM's own memory, KiB",
        |it| it.vmm_anonymous_kib as i64,
        512,
        1,
    ),
];

/// Figures are compared between the first and the last quarter of at least this many updates in one kernel.
const ENOUGH: usize = 40;
/// Kernels of two builds take turns.
const BUILDS: u64 = 2;

/// Fails if a figure grew from one update to the next in one kernel.
///
/// # Errors
///
/// Names the figure, by how much it grew, and by how much it may.
pub fn nothing_grew(samples: &[Sample]) -> Result<()> {
    if samples.len() < ENOUGH {
        return Ok(());
    }
    let quarter = samples.len() / 4;
    let (early, late) = (&samples[..quarter], &samples[samples.len() - quarter..]);
    compare(early, late, samples.len() - quarter)
}

/// Fails if a figure grew from one kernel of a host to the next one of the same build, or if a kernel has less memory
/// than the first one. In the first one, which the firmware booted, more is in use: its figures are not compared otherwise.
///
/// # Errors
///
/// As [`nothing_grew`], and names the kernel.
pub fn nothing_grew_over_kexecs(samples: &[Sample]) -> Result<()> {
    let of_kernel = |kexecs: u64| -> Vec<Sample> {
        let its = samples.iter().filter(|sample| sample.kexecs == kexecs);
        its.copied().collect()
    };
    let last = samples.iter().map(|sample| sample.kexecs).max();
    let last = last.unwrap_or_default();
    // What nobody restores after a kexec is lost to that kernel alone: every kernel can have lost the same.
    for kexecs in 1..=last {
        compare_of(&[RESERVED], &of_kernel(0), &of_kernel(kexecs), 0)
            .with_context(|| format!("After {kexecs} kexecs, compared with before them"))?;
    }
    for kexecs in 1 + BUILDS..=last {
        let (early, late) = (of_kernel(kexecs - BUILDS), of_kernel(kexecs));
        let before = kexecs - BUILDS;
        compare(&early, &late, early.len())
            .with_context(|| format!("After {kexecs} kexecs, compared with after {before}"))?;
    }
    Ok(())
}

/// Compares the least figures of two times, the second of which began so many updates after the first.
fn compare(early: &[Sample], late: &[Sample], updates: usize) -> Result<()> {
    compare_of(LIMITS, early, late, updates)
}

/// The same, of some figures.
fn compare_of(limits: &[Limit], early: &[Sample], late: &[Sample], updates: usize) -> Result<()> {
    for (name, figure, in_all, per_update) in limits {
        let least = |samples: &[Sample]| samples.iter().map(figure).min();
        let Some((early, late)) = least(early).zip(least(late)) else {
            continue;
        };
        let grew = late - early;
        let limit = in_all + per_update * updates as i64;
        ensure!(grew <= limit, "{name}: grew by {grew}, and may by {limit}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(leak_kib: u64) -> Vec<Sample> {
        let sample = |update| Sample {
            update,
            kexecs: 0,
            kind: Kind::Replaced,
            blackout_ns: None,
            total_kib: 2_000_000,
            uncounted_kib: 9000,
            available_kib: 1_000_000 - leak_kib * update + update % 3 * 100,
            unreclaimable_slab_kib: 5000,
            vmalloc_kib: 300,
            open_files: 90,
            vmm_fds: 40,
            vmm_threads: 9,
            vmm_anonymous_kib: 4000,
        };
        (1..=2000).map(sample).collect()
    }

    #[test]
    fn a_small_leak_shows_after_enough_updates() {
        nothing_grew(&samples(0)).unwrap();
        let message = nothing_grew(&samples(12)).unwrap_err().to_string();
        assert!(
            message.starts_with("memory in use, KiB: grew by"),
            "{message}"
        );
        nothing_grew(&samples(12)[..20]).unwrap();
    }

    #[test]
    fn one_descriptor_more_is_too_many() {
        let mut samples = samples(0);
        samples[1000..]
            .iter_mut()
            .for_each(|sample| sample.vmm_fds += 1);
        assert!(nothing_grew(&samples).is_err());
    }

    /// Three updates in each of five kernels, each of which has lost so much more.
    fn kernels(leak_kib: u64) -> Vec<Sample> {
        let in_kernel = |(index, sample): (usize, Sample)| {
            let kexecs = index as u64 / 3;
            Sample {
                kexecs,
                available_kib: 900_000 - leak_kib * kexecs,
                ..sample
            }
        };
        let samples = samples(0).into_iter().take(15).enumerate();
        samples.map(in_kernel).collect()
    }

    #[test]
    fn what_a_kexec_leaks_shows_in_the_next_kernel_of_the_same_build() {
        nothing_grew_over_kexecs(&kernels(1000)).unwrap();
        let message = format!(
            "{:#}",
            nothing_grew_over_kexecs(&kernels(3000)).unwrap_err()
        );
        let expected = "After 3 kexecs, compared with after 1: memory in use, KiB: grew by 6000, and may by 4108";
        assert_eq!(message, expected);
        let mut samples = kernels(0);
        samples[9..]
            .iter_mut()
            .for_each(|sample| sample.total_kib -= 260);
        let message = format!("{:#}", nothing_grew_over_kexecs(&samples).unwrap_err());
        assert!(
            message.contains("reserved memory, KiB: grew by 260"),
            "{message}"
        );
        // What is lost anew by each kernel does not grow.
        samples[3..]
            .iter_mut()
            .for_each(|sample| sample.total_kib = 1_999_740);
        let message = format!("{:#}", nothing_grew_over_kexecs(&samples).unwrap_err());
        assert_eq!(
            message,
            "After 1 kexecs, compared with before them: reserved memory, KiB: grew by 260, and may by 256"
        );
        // Of one build each.
        nothing_grew_over_kexecs(&kernels(3000)[..9]).unwrap();
        nothing_grew_over_kexecs(&[]).unwrap();
    }
}
