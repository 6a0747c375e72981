//! Replaces the VMM under its guest without a kexec, and compares that with QEMU's cpr-transfer of
//! an equal guest in the same boot of the same host.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use fdbox_lab::bench::{CPR_TRANSFER, UPGRADED};
use fdbox_lab::scenario::Devices;
use serde::Serialize;

use super::stats::Spread;
use super::table::Table;
use super::{Bench, PROGRAM, values};
use crate::host::{Ending, HostSpec, StageSpec};
use crate::kernel::Flavour;
use crate::qemu_files;
use crate::tsc::Clocks;

const LIMIT: Duration = Duration::from_secs(600);
const SIZES_MIB: &[u64] = &[128, 512, 1024, 2048];
/// Upgrades in one boot.
const RUNS: usize = 10;
const QUICK_RUNS: usize = 3;
/// Memory of the host that QEMU and its files take, in MiB.
const QEMU_MIB: u64 = 1024;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) ram_mib: u64,
    pub(crate) ram_kind: String,
    /// From the last vCPU's exit to the first KVM_RUN of the new process.
    pub(crate) blackout_ns: Spread,
    /// The median of the times from `vm_state_notify` of the old QEMU to that of the new one. Both
    /// are within the blackout of the guest.
    pub(crate) qemu_cpr_transfer_ns: Option<u64>,
    pub(crate) qemu_cpr_transfer: Option<Spread>,
    pub(crate) runs: usize,
}

#[derive(Debug, Default)]
struct Figures {
    ours: Vec<u64>,
    qemu: Vec<u64>,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let mut figures: BTreeMap<u64, Figures> = BTreeMap::new();
    for round in 0..bench.repeats {
        for mib in bench.sizes(SIZES_MIB) {
            let what = format!("upgrade of the VMM: {mib} MiB, run {}", round + 1);
            let taken = bench.attempt(&what, || measure(bench, *mib));
            let (ours, qemu) = taken.unwrap_or_default();
            let of_size = figures.entry(*mib).or_default();
            of_size.ours.extend(ours);
            of_size.qemu.extend(qemu);
        }
    }
    Ok(figures.into_iter().filter_map(row).collect())
}

/// One boot in which both VMMs are replaced several times, one after the other.
fn measure(bench: &Bench<'_>, mib: u64) -> Result<(Vec<u64>, Vec<u64>)> {
    let guest = bench.guest()?;
    let runs = if bench.quick { QUICK_RUNS } else { RUNS };
    let files = [
        vec![bench.scenarios()],
        qemu_files::get(&bench.lab.toolchain)?,
    ];
    let spec = HostSpec {
        name: "bench-upgrade".to_owned(),
        memory_mib: 2048 + mib + QEMU_MIB,
        cpus: 1,
        devices: Devices::None,
        guests: 0,
        cmdline: String::new(),
        files: files.concat(),
        with_modules: true,
        stages: vec![StageSpec {
            kernel: Flavour::A,
            modules: vec!["fdbox".to_owned()],
            commands: vec![
                format!("{PROGRAM} bench upgrade memfd {mib} {runs}"),
                format!("{PROGRAM} bench cpr-transfer {mib} {runs}"),
            ],
            files: guest.of_stage(0),
            then: Ending::PowerOff,
        }],
        stage_limit: LIMIT,
        clocks: Clocks::Time,
    };
    let record = bench.boot(spec)?;
    Ok((values(&record, UPGRADED)?, values(&record, CPR_TRANSFER)?))
}

fn row((ram_mib, figures): (u64, Figures)) -> Option<Row> {
    let qemu = Spread::of(figures.qemu);
    Some(Row {
        ram_mib,
        ram_kind: "memfd".to_owned(),
        runs: figures.ours.len(),
        blackout_ns: Spread::of(figures.ours)?,
        qemu_cpr_transfer_ns: qemu.map(|spread| spread.median),
        qemu_cpr_transfer: qemu,
    })
}

pub(super) fn table(rows: &[Row]) -> Table {
    let heads = [
        "guest",
        "blackout, ms",
        "QEMU's cpr-transfer, ms",
        "of it",
        "upgrades",
    ];
    let mut table = Table::new("The VMM is replaced under a guest, without a kexec", &heads);
    for row in rows {
        let ratio = row
            .qemu_cpr_transfer_ns
            .map(|qemu| row.blackout_ns.median as f64 / qemu.max(1) as f64);
        table.add([
            format!("{} MiB of {}", row.ram_mib, row.ram_kind),
            row.blackout_ns.millis(),
            row.qemu_cpr_transfer
                .map_or_else(|| "-".to_owned(), |spread| spread.millis()),
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")),
            row.runs.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_needs_our_figures_and_not_qemus() {
        let figures = |ours: &[u64], qemu: &[u64]| Figures {
            ours: ours.to_vec(),
            qemu: qemu.to_vec(),
        };
        assert!(row((128, figures(&[], &[5]))).is_none());
        let alone = row((128, figures(&[3, 1, 2], &[]))).unwrap();
        assert_eq!((alone.blackout_ns.median, alone.runs), (2, 3));
        assert_eq!(alone.qemu_cpr_transfer_ns, None);
        let both = row((128, figures(&[2], &[40, 60, 50]))).unwrap();
        assert_eq!(both.qemu_cpr_transfer_ns, Some(50));
        assert!(table(&[alone, both]).text().contains("0.040"));
    }
}
