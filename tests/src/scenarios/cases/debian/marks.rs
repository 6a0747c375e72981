//! What a Debian guest's clocks and journal say of an update. The guest itself keeps what they said before it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fdbox_lab::clocks::{self, Sample};

use crate::guest::Guest;

/// How far a clock of the guest may be from where the host's TSC says it is.
const TOLERANCE: Duration = Duration::from_millis(10);
/// Where the guest keeps its clocks.
const CLOCKS: &str = "/run/lab/clocks";
/// The parts of its journal that an update must not add to, by name: warnings, and what its kernel says.
const JOURNALS: [(&str, &str); 2] = [("warnings", "-p warning"), ("kernel", "-k")];
/// What some kernels say, as information, after a blackout of more than a second: see docs/operations.md.
const LONG_READOUT: &str = "clocksource: Long readout interval, skipping watchdog check";

/// From now on, what is new in the journal is the update's.
pub(super) fn mark(guest: &mut Guest) -> Result<()> {
    for (name, filter) in JOURNALS {
        let cursor = format!("journalctl -q -b {filter} --cursor-file=/run/lab/{name} > /dev/null");
        guest.shell(&cursor)?;
    }
    let clocks = guest.clocks()?;
    let text = serde_json::to_string(&clocks)?;
    guest.shell(&format!("echo '{text}' > {CLOCKS}"))?;
    Ok(())
}

/// The journal has nothing new, and the clocks went on as the host's TSC did, through whichever kernels and VMMs.
pub(super) fn unnoticed(guest: &mut Guest) -> Result<()> {
    let now = guest.clocks()?;
    let before: Sample = serde_json::from_str(&guest.shell(&format!("cat {CLOCKS}"))?)?;
    let drift = now.drift(&before, tsc_khz()?);
    println!("Monotonic and wall clock of the guest: {drift:?} off");
    for (clock, drift) in ["monotonic", "wall"].iter().zip(drift) {
        ensure!(
            drift <= TOLERANCE,
            "The guest's {clock} clock is {drift:?} off"
        );
    }
    for (name, filter) in JOURNALS {
        let new = format!("journalctl -q -b {filter} -o cat --cursor-file=/run/lab/{name}");
        let mut new: Vec<String> = guest.shell(&new)?.lines().map(str::to_owned).collect();
        new.retain(|line| !line.starts_with(LONG_READOUT));
        ensure!(
            new.is_empty(),
            "New in the guest's journal ({name}): {new:?}"
        );
    }
    Ok(())
}

/// Its wall clock is that of the host on which it booted, whose clocks `host` is a sample of, if what its kernel lost
/// while it booted is added.
pub(super) fn wall_clock_is_of(guest: &mut Guest, host: &Sample) -> Result<()> {
    let log = guest.shell("journalctl -q -b -k -o cat | grep -F 'Marking stable'")?;
    let lost = clocks::lost_at_boot(&log).with_context(|| format!("A kernel's line: {log}"))?;
    let [_, off] = guest.clocks()?.without_loss(lost).drift(host, tsc_khz()?);
    println!(
        "Wall clock of the guest: {off:?} off the host's and the {lost:?} that its kernel lost"
    );
    ensure!(
        off <= TOLERANCE,
        "The guest's wall clock is {off:?} off its host's, beside the {lost:?} that it lost when it booted"
    );
    Ok(())
}

/// The frequency of the host's TSC. No kernel of the lab's measures it: it is on the command line.
fn tsc_khz() -> Result<u64> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let mut words = cmdline.split_ascii_whitespace();
    let khz = words.find_map(|word| word.strip_prefix("tsc_early_khz="));
    Ok(khz.context("The command line has tsc_early_khz")?.parse()?)
}
