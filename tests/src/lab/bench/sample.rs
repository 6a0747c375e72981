//! A report with all that a page shows, to try its layout with: figures of every length, and names
//! as long as they come.

use super::Missing;
use super::binary;
use super::floor::{Floor, Run};
use super::html;
use super::lifeboat;
use super::report::Report;
use super::stats::Spread;
use super::twice::Profile;
use super::update::Row;
use crate::proof::Phase;

const MS: u64 = 1_000_000;
const PHASES_MS: [(&str, u64); 8] = [
    ("pause", 2),
    ("save", 4),
    ("jump", 58),
    ("kernel-boot", 391),
    ("userspace", 96),
    ("take-out", 3),
    ("restore", 27),
    ("rebuild", 9),
];

/// The page of a made-up report.
pub(crate) fn page() -> String {
    let kinds = [("guest_memfd", 4), ("memfd", 4), ("memfd", 2048)];
    let sizes = [128, 512, 1024, 2048];
    let updates = sizes
        .iter()
        .flat_map(|mib| kinds.map(|kind| update(*mib, kind)));
    html::page(&Report {
        kernel: "7.3.4-fdbox-a".to_owned(),
        repeats: 3,
        host_update: updates.collect(),
        lifeboat: sizes[..2].iter().map(|mib| afloat(*mib)).collect(),
        floor: Some(floor()),
        binary_upgrade: kinds.map(|(kind, _)| replaced(kind)).into(),
        missing: vec![Missing {
            what: "update: 2048 MiB of guest_memfd, 4 KiB pages, 1 CPU, run 2".to_owned(),
            reason: "Kernel 1, command 3: exit status 1".to_owned(),
        }],
        ..Report::default()
    })
}

fn spread(median: u64) -> Spread {
    Spread {
        min: median - median / 20,
        median,
        max: median + median / 9,
    }
}

fn update(ram_mib: u64, (ram_kind, folio_kib): (&str, u64)) -> Row {
    let floor_ns = 540 * MS + ram_mib * 9_000;
    let of_memory = ram_mib * 1_000_000 / folio_kib;
    let blackout_ns = PHASES_MS.iter().map(|(_, ms)| ms * MS).sum::<u64>() + of_memory / 20;
    Row {
        ram_mib,
        ram_kind: ram_kind.to_owned(),
        folio_kib,
        vcpus: 1,
        guests: 1,
        blackout_ns: spread(blackout_ns),
        guest_gap_ns: blackout_ns + 11 * MS,
        network_gap_ns: (ram_mib == 512).then_some(blackout_ns + 40 * MS),
        phases: PHASES_MS.map(phase).into(),
        floor_ns: Some(floor_ns),
        luo_retrieve_ns: Some(of_memory),
        luo_kexec_ns: Some(floor_ns + of_memory / 4),
        copy_ns: Some(ram_mib * 3 * MS),
        metadata_bytes: Some(4_321),
        metadata_extents: Some(17),
        luo_metadata_bytes: Some(ram_mib * 4_096),
        runs: 3,
    }
}

fn phase((name, ms): (&str, u64)) -> Phase {
    Phase {
        name: name.to_owned(),
        ns: ms * MS,
    }
}

fn floor() -> Floor {
    let run = |profile, ns| Run {
        profile,
        total_ns: spread(ns),
        before_kernel_ns: spread(ns / 8),
        kernel_ns: spread(ns - ns / 8),
    };
    let (stock_ns, fast_ns) = (540 * MS, 152 * MS);
    Floor {
        stock_ns: Some(stock_ns),
        fast_ns: Some(fast_ns),
        runs: vec![run(Profile::Stock, stock_ns), run(Profile::Fast, fast_ns)],
    }
}

fn afloat(ram_mib: u64) -> lifeboat::Row {
    let moved = |from: &str, to: &str| lifeboat::Move {
        from: from.to_owned(),
        to: to.to_owned(),
        stop_to_run_ns: 45 * MS,
        phases: PHASES_MS.iter().copied().take(2).map(phase).collect(),
    };
    lifeboat::Row {
        ram_mib,
        floor_ns: Some(540 * MS),
        ordinary_blackout_ns: Some(590 * MS),
        ordinary_gap_ns: Some(601 * MS),
        gap_ns: spread(52 * MS),
        host_kexec_ns: 1140 * MS,
        kexec_to_gap: 21.9,
        io_gap_ns: 2_300 * MS,
        moves: vec![moved("host", "lifeboat"), moved("lifeboat", "host")],
        runs: 3,
    }
}

fn replaced(ram_kind: &str) -> binary::Row {
    binary::Row {
        ram_mib: 512,
        ram_kind: ram_kind.to_owned(),
        blackout_ns: spread(6 * MS),
        qemu_cpr_transfer_ns: Some(91 * MS),
        qemu_cpr_transfer: Some(spread(91 * MS)),
        runs: 15,
    }
}
