//! `bench`: what updates cost guests on this host, in the format of `cargo lab bench --json`.
//!
//! There are two sources: the reports of host updates that were made here (`resume --report`), and
//! upgrades of this VMM that the command makes itself, under guests that it boots for this purpose.
//! Values that it cannot know are null and listed under `missing`, with the reason.

mod reports;
mod upgrades;

use std::fs;
use std::thread::available_parallelism;

use anyhow::Context;
use serde::Serialize;
use vmm_fdbox::update::ExitStatus;

use super::table::table;
use crate::cli::BenchArgs;
use crate::error::print;
use crate::service::report::PhaseReport;

/// Minimum, median and maximum of repeated measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Spread {
    min: u64,
    median: u64,
    max: u64,
}

impl Spread {
    /// `None` if there are no figures. For an even number, the median is the lower of the middle
    /// two.
    fn of(figures: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut figures: Vec<u64> = figures.into_iter().collect();
        figures.sort_unstable();
        Some(Self {
            min: *figures.first()?,
            median: figures[(figures.len() - 1) / 2],
            max: *figures.last()?,
        })
    }

    fn text(self) -> String {
        let millis = |ns| ns as f64 / 1e6;
        let (min, median, max) = (millis(self.min), millis(self.median), millis(self.max));
        format!("{median:.1} ms ({min:.1} to {max:.1})")
    }
}

/// Updates of this host, with guests of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct HostUpdate {
    ram_mib: u64,
    ram_kind: String,
    vcpus: u64,
    /// How many guests were updated together.
    guests: u64,
    blackout_ns: Spread,
    /// The phases of the update whose blackout is the median.
    phases: Vec<PhaseReport>,
    floor_ns: Option<u64>,
    runs: u64,
}

/// Upgrades of this VMM, with guests of one size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct BinaryUpgrade {
    ram_mib: u64,
    ram_kind: String,
    blackout_ns: Spread,
    qemu_cpr_transfer_ns: Option<u64>,
    runs: u64,
}

#[derive(Debug, Serialize)]
struct Missing {
    what: &'static str,
    reason: &'static str,
}

const MISSING: &[Missing] = &[
    Missing {
        what: "host_update: floor_ns",
        reason: "it needs a kexec of this host without a guest; cargo lab bench does one in the lab",
    },
    Missing {
        what: "binary_upgrade: qemu_cpr_transfer_ns",
        reason: "this program does not run QEMU; cargo lab bench does, in the lab",
    },
];

#[derive(Debug, Serialize)]
struct Machine {
    cpu: String,
    cpus: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    kernel: String,
    host_update: Vec<HostUpdate>,
    binary_upgrade: Vec<BinaryUpgrade>,
    missing: &'static [Missing],
}

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<ExitStatus> {
    let report = Report {
        machine: machine()?,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("Cannot read the kernel's release")?
            .trim()
            .into(),
        host_update: reports::rows(&args.reports)?,
        binary_upgrade: match &args.kernel {
            Some(kernel) => upgrades::measure(args, kernel)?,
            None => Vec::new(),
        },
        missing: MISSING,
    };
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&report)?)
    } else {
        text(&report)
    };
    print(&text)?;
    Ok(ExitStatus::Done)
}

fn machine() -> anyhow::Result<Machine> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("Cannot read /proc/cpuinfo")?;
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':'));
    Ok(Machine {
        cpu: name.map_or_else(String::new, |(_, name)| name.trim().into()),
        cpus: available_parallelism()?.get(),
    })
}

fn text(report: &Report) -> String {
    let updates = report.host_update.iter().map(|row| {
        [
            format!("{} x {} MiB of {}", row.guests, row.ram_mib, row.ram_kind),
            row.vcpus.to_string(),
            row.runs.to_string(),
            row.blackout_ns.text(),
        ]
    });
    let upgrades = report.binary_upgrade.iter().map(|row| {
        [
            format!("{} MiB of {}", row.ram_mib, row.ram_kind),
            row.runs.to_string(),
            row.blackout_ns.text(),
        ]
    });
    let (updates, upgrades): (Vec<_>, Vec<_>) = (updates.collect(), upgrades.collect());
    let mut text = format!("{}, {}\n", report.kernel, report.machine.cpu);
    if !updates.is_empty() {
        text += &table(
            ["HOST UPDATED UNDER", "VCPUS", "RUNS", "BLACKOUT"],
            &updates,
        );
    }
    if !upgrades.is_empty() {
        text += &table(["VMM UPGRADED UNDER", "RUNS", "BLACKOUT"], &upgrades);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_figures() {
        assert_eq!(Spread::of([]), None);
        let spread = |figures: &[u64]| {
            let spread = Spread::of(figures.iter().copied()).unwrap();
            (spread.min, spread.median, spread.max)
        };
        assert_eq!(spread(&[5, 1, 9]), (1, 5, 9));
        assert_eq!(spread(&[4, 1]), (1, 1, 4));
        assert_eq!(
            Spread::of([1_500_000]).unwrap().text(),
            "1.5 ms (1.5 to 1.5)"
        );
    }

    #[test]
    fn programs_find_the_fields_they_were_promised() {
        let report = Report {
            machine: machine().unwrap(),
            kernel: "7.3".into(),
            host_update: Vec::new(),
            binary_upgrade: vec![BinaryUpgrade {
                ram_mib: 128,
                ram_kind: "memfd".into(),
                blackout_ns: Spread::of([3]).unwrap(),
                qemu_cpr_transfer_ns: None,
                runs: 1,
            }],
            missing: MISSING,
        };
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["host_update"].is_array());
        assert_eq!(json["binary_upgrade"][0]["blackout_ns"]["median"], 3);
        assert!(json["binary_upgrade"][0]["qemu_cpr_transfer_ns"].is_null());
        assert!(text(&report).contains("128 MiB of memfd"));
    }
}
