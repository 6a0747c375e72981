//! The report as one page: the pictures are drawn here, and the page loads nothing.

use std::fmt::Write;

use super::report::Report;
use super::stats::millis;
use super::svg;
use super::table::Table;
use super::update::Row;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;color:#1b1f24;max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.5rem}\
table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto}\
th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid #d8dee4;white-space:nowrap}\
th{background:#f6f8fa}pre{background:#f6f8fa;padding:.8rem;overflow-x:auto}\
.note{color:#57606a;font-size:.9rem}svg{width:100%;height:auto}\
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}th,pre{background:#161b22}\
th,td{border-color:#30363d}.note{color:#8b949e}svg{background:#f6f8fa;border-radius:6px}}";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>What a host update costs a guest</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>What a host update costs a guest</h1>\n"
    );
    page += &paragraph(&format!(
        "Linux {} on {} CPUs ({}), {}, each figure {} times, medians. The host is emulated: \
         its milliseconds are not those of hardware, ratios within this run mean something.",
        report.kernel,
        report.machine.cpus,
        report.machine.cpu,
        report.machine.emulator,
        report.repeats
    ));
    page += &pictures(report);
    for table in report.tables() {
        page += &of_table(&table);
    }
    if !report.missing.is_empty() {
        page += "<h2>Not measured</h2>\n<ul>\n";
        for missing in &report.missing {
            let (what, reason) = (escape(&missing.what), escape(&missing.reason));
            // Writing to a string cannot fail.
            let _ = writeln!(page, "<li>{what}: {reason}</li>");
        }
        page += "</ul>\n";
    }
    page += "<h2>How to reproduce</h2>\n<pre>cargo lab bench --json bench.json --report bench.html\
             </pre>\n</body></html>\n";
    page
}

fn pictures(report: &Report) -> String {
    let mut page = String::new();
    if let Some(row) = shown(&report.host_update) {
        page += &heading("One update, by phase");
        let text = format!(
            "{} MiB of {}, {} vCPU: the guest stood still for {} ms.",
            row.ram_mib,
            row.memory(),
            row.vcpus,
            millis(row.blackout_ns.median)
        );
        page += &paragraph(&text);
        let phases = row.phases.iter();
        let phases: Vec<(String, u64)> =
            phases.map(|phase| (phase.name.clone(), phase.ns)).collect();
        page += &svg::timeline(&phases);
        page += &heading("Blackout over the guest's memory");
        page += &svg::lines("MiB", &series(&report.host_update));
        page += &heading("Ours beside the baselines");
        page += &svg::bars(&beside(row));
    }
    if let Some(floor) = &report.floor {
        page += &heading("The bare kexec, by profile");
        let bars = floor.runs.iter();
        let bars: Vec<(String, u64)> = bars
            .map(|run| {
                (
                    format!("{:?}", run.profile).to_lowercase(),
                    run.total_ns.median,
                )
            })
            .collect();
        page += &svg::bars(&bars);
    }
    page
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
fn series(rows: &[Row]) -> Vec<svg::Line> {
    let mut lines: Vec<svg::Line> = Vec::new();
    let mut add = |name: String, x: u64, y: Option<u64>| {
        let Some(y) = y else { return };
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) if line.points.iter().any(|point| point.0 == x) => {}
            Some(line) => line.points.push((x, y)),
            None => lines.push(svg::Line {
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

fn heading(text: &str) -> String {
    format!("<h2>{}</h2>\n", escape(text))
}

fn paragraph(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

fn of_table(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells = cells.iter();
        let cells: String = cells
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)))
            .collect();
        format!("<tr>{cells}</tr>\n")
    };
    let body: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    format!(
        "{}<table>\n{}{body}</table>\n{}",
        heading(&table.title),
        row(&table.heads, "th"),
        paragraph(&table.note)
    )
}

/// Escapes text for use in markup.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
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
