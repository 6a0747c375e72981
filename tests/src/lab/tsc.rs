//! What drives an emulated host's clocks, and the frequency of its TSC.

use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What makes an emulated host's clocks advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Clocks {
    /// Time: the host's TSC is the machine's.
    #[default]
    Time,
    /// The instructions executed by its only CPU, one nanosecond each. The emulator's translation
    /// of code, and other load on the machine, take no time at all.
    Instructions,
}

impl Clocks {
    /// The frequency of the host's TSC, in kHz.
    pub(crate) fn tsc_khz(self) -> u64 {
        match self {
            Self::Time => khz(),
            Self::Instructions => 1_000_000,
        }
    }
}

/// The time over which it is measured: the clocks are read to within a microsecond or so.
const SPAN: Duration = Duration::from_millis(300);

/// The frequency of the machine's TSC, in kHz, measured once.
pub(crate) fn khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let (start_ns, start_tsc) = read();
        std::thread::sleep(SPAN);
        let (end_ns, end_tsc) = read();
        (end_tsc - start_tsc) * 1_000_000 / (end_ns - start_ns)
    })
}

/// Both clocks at about the same time: the least disturbed of a few readings.
fn read() -> (u64, u64) {
    let once = || {
        let before = fdbox_lab::tsc();
        let now = clock_gettime(ClockId::Monotonic);
        let after = fdbox_lab::tsc();
        let ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        (after - before, ns, before + (after - before) / 2)
    };
    let (_, ns, tsc) = (0..16).map(|_| once()).min().unwrap_or_else(once);
    (ns, tsc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frequency_is_one_that_cpus_have() {
        let khz = khz();
        assert!((500_000..10_000_000).contains(&khz), "{khz} kHz");
        assert_eq!(khz, super::khz());
    }
}
