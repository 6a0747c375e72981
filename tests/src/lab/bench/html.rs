//! The report as a page.

use super::lifeboat;
use super::report::Report;
use super::update::Row;
use crate::page::chart::{self, Line};
use crate::page::{Card, Page, Quantity, time};

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let mut page = Page::new("What a host update costs a guest");
    page.note(&format!(
        "Linux {} on {} CPUs ({}), {}, each figure {} times, medians. The host is emulated: \
         its milliseconds are not those of hardware, ratios within this run mean something.",
        report.kernel,
        report.machine.cpus,
        report.machine.cpu,
        report.machine.emulator,
        report.repeats
    ));
    let shown = shown(&report.host_update);
    if let Some(row) = shown {
        page.cards(&cards(row));
        host_update(&mut page, report, row);
    }
    if !report.lifeboat.is_empty() {
        page.heading("How long the guest stood still, with a lifeboat and without");
        let bars = report.lifeboat.iter().flat_map(lifeboat::Row::beside);
        page.chart(&chart::bars(&bars.collect::<Vec<_>>()));
    }
    if let Some(floor) = &report.floor {
        page.heading("The bare kexec, by profile");
        let bars = floor.runs.iter().map(|run| {
            let profile = format!("{:?}", run.profile).to_lowercase();
            (profile, run.total_ns.median)
        });
        page.chart(&chart::bars(&bars.collect::<Vec<_>>()));
    }
    for table in report.tables() {
        page.heading(&table.title);
        page.table(&table.heads, &table.rows);
        page.note(&table.note);
    }
    if !report.missing.is_empty() {
        page.heading("Not measured");
        let missing = report.missing.iter();
        page.list(missing.map(|missing| format!("{}: {}", missing.what, missing.reason)));
    }
    page.heading("How to reproduce");
    page.text("cargo lab bench --json bench.json --report bench.html");
    page.finish()
}

fn host_update(page: &mut Page, report: &Report, row: &Row) {
    page.heading("One update, by phase");
    page.note(&format!(
        "{} MiB of {}, {} vCPU.",
        row.ram_mib,
        row.memory(),
        row.vcpus
    ));
    let phases = row.phases.iter();
    let phases: Vec<_> = phases.map(|phase| (phase.name.clone(), phase.ns)).collect();
    page.chart(&chart::timeline(&phases));
    page.heading("Blackout over the guest's memory");
    page.chart(&chart::lines(
        "MiB",
        Quantity::Time,
        &series(&report.host_update),
    ));
    page.heading("FDBox beside the baselines");
    page.chart(&chart::bars(&beside(row)));
}

fn cards(row: &Row) -> Vec<Card> {
    let guest = format!("blackout of a guest with {} MiB", row.ram_mib);
    let mut cards = vec![
        Card::new(time(row.blackout_ns.median), guest),
        Card::new(time(row.guest_gap_ns), "the gap that the guest saw"),
    ];
    cards.extend(row.floor_ns.map(|floor| {
        let ratio = row.blackout_ns.median as f64 / floor.max(1) as f64;
        Card::new(format!("{ratio:.2} ×"), "the bare kexec of the same host")
    }));
    cards
}

/// The update to show: with guest_memfd, and of 1 GiB if there is one.
fn shown(rows: &[Row]) -> Option<&Row> {
    let one_gib = rows.iter().find(|row| row.ram_mib == 1024);
    one_gib.or(rows.first())
}

fn beside(row: &Row) -> Vec<(String, u64)> {
    let mut bars = vec![("FDBox: blackout".to_owned(), row.blackout_ns.median)];
    let baselines = [
        ("bare kexec, no guest", row.floor_ns),
        ("LUO: kexec and RETRIEVE_FD", row.luo_ns()),
        ("kexec, memory copied out and in", row.copied_ns()),
    ];
    bars.extend(
        baselines
            .into_iter()
            .filter_map(|(name, ns)| Some((name.to_owned(), ns?))),
    );
    bars
}

/// Blackout and baselines over the size of the memory, one line each.
fn series(rows: &[Row]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut add = |name: String, x: u64, y: Option<u64>| {
        let Some(y) = y else { return };
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) if line.points.iter().any(|point| point.0 == x) => {}
            Some(line) => line.points.push((x, y)),
            None => lines.push(Line {
                name,
                points: vec![(x, y)],
            }),
        }
    };
    // Hosts of guests with a network do more before the guests run.
    let alike = |row: &&Row| row.vcpus == 1 && row.network_gap_ns.is_none();
    for row in rows.iter().filter(alike) {
        add(row.memory(), row.ram_mib, Some(row.blackout_ns.median));
        add("bare kexec".to_owned(), row.ram_mib, row.floor_ns);
        let luo = format!("LUO, {} KiB pages", row.folio_kib);
        add(luo, row.ram_mib, row.luo_ns());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::stats::Spread;
    use super::*;
    use crate::proof::Phase;

    fn row(ram_mib: u64) -> Row {
        let phase = |name: &str, ns| Phase {
            name: name.to_owned(),
            ns,
        };
        Row {
            ram_mib,
            ram_kind: "guest_memfd".to_owned(),
            folio_kib: 4,
            vcpus: 1,
            guests: 1,
            blackout_ns: Spread::of([2_000_000_000]).unwrap(),
            guest_gap_ns: 2_000_000_000,
            network_gap_ns: None,
            phases: vec![phase("jump", 500_000_000), phase("<boot>", 1_500_000_000)],
            floor_ns: Some(1_900_000_000),
            luo_retrieve_ns: Some(600_000_000),
            luo_kexec_ns: Some(2_500_000_000),
            copy_ns: None,
            metadata_bytes: Some(4000),
            metadata_extents: Some(10),
            luo_metadata_bytes: Some(1 << 22),
            runs: 1,
        }
    }

    #[test]
    fn the_page_is_complete_in_itself_and_escaped() {
        let report = Report {
            host_update: vec![row(128), row(1024)],
            ..Report::default()
        };
        let page = page(&report);
        for wanted in [
            "<svg",
            "bare kexec",
            "1024",
            "cargo lab bench",
            "&lt;boot&gt;",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
        for unwanted in ["<boot>", "http://", "https://", "<script", "NaN"] {
            assert!(!page.contains(unwanted), "{unwanted}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn a_baseline_that_was_not_measured_is_not_drawn() {
        let names: Vec<String> = beside(&row(128)).into_iter().map(|bar| bar.0).collect();
        assert!(
            !names.iter().any(|name| name.contains("copied")),
            "{names:?}"
        );
        assert_eq!(series(&[row(128), row(512)]).len(), 3);
    }

    #[test]
    fn a_row_has_the_fields_that_programs_were_promised() {
        let json = serde_json::to_value(row(512)).unwrap();
        assert_eq!(json["blackout_ns"]["median"], 2_000_000_000_u64);
        assert_eq!(json["phases"][0]["name"], "jump");
        for field in [
            "ram_mib",
            "ram_kind",
            "folio_kib",
            "vcpus",
            "guests",
            "guest_gap_ns",
            "network_gap_ns",
            "floor_ns",
            "luo_retrieve_ns",
            "copy_ns",
            "metadata_bytes",
            "luo_metadata_bytes",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }

    #[test]
    fn an_empty_report_is_a_page_too() {
        assert!(page(&Report::default()).ends_with("</html>\n"));
    }
}
