//! The table of docs/kernels.md: a row for each pair, with the kernels and the verdict of its last noted run.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::PAIRS;

const PAGE: &str = "docs/kernels.md";
/// What each row starts with.
const START: &str = "| `matrix/";
/// The line before the rows.
const HEAD_END: &str = "|---|---|---|---|---|";

/// Hosts in several lanes write the same page.
static WRITING: Mutex<()> = Mutex::new(());

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) guest: String,
    pub(super) shows: String,
    pub(super) verdict: String,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').collect();
        let [name, host, guest, shows, verdict] = cells.as_slice() else {
            return None;
        };
        let text = |cell: &str| cell.trim().to_owned();
        Some(Self {
            name: text(name).trim_matches('`').to_owned(),
            host: text(host),
            guest: text(guest),
            shows: text(shows),
            verdict: text(verdict),
        })
    }

    fn line(&self) -> String {
        let Self {
            name,
            host,
            guest,
            shows,
            verdict,
        } = self;
        format!("| `{name}` | {host} | {guest} | {shows} | {verdict} |")
    }
}

/// The rows of the page.
pub(super) fn rows(page: &str) -> Vec<Row> {
    let lines = page.lines().filter(|line| line.starts_with(START));
    lines.filter_map(Row::parse).collect()
}

/// Writes a row to the page of this checkout.
pub(super) fn note(checkout: &Path, row: &Row) -> Result<()> {
    let _one_at_a_time = WRITING.lock().unwrap_or_else(|error| error.into_inner());
    let path = checkout.join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("Read {PAGE}"))?;
    fs::write(&path, with(&page, row)).with_context(|| format!("Write {PAGE}"))
}

/// The page with this row, and without those of pairs that no longer exist.
fn with(page: &str, row: &Row) -> String {
    let mut rows = rows(page);
    rows.retain(|old| old.name != row.name);
    rows.push(row.clone());
    let mut text = String::new();
    for line in page.lines().filter(|line| !line.starts_with(START)) {
        text += line;
        text.push('\n');
        if line == HEAD_END {
            let of = |pair: &super::Pair| rows.iter().find(|row| row.name == pair.name);
            for row in PAIRS.iter().filter_map(of) {
                text += &row.line();
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, verdict: &str) -> Row {
        Row {
            name: name.to_owned(),
            host: "7.2 to 7.3".to_owned(),
            guest: "6.12".to_owned(),
            shows: "`luo`: a kexec".to_owned(),
            verdict: verdict.to_owned(),
        }
    }

    #[test]
    fn a_row_replaces_the_older_one_and_rows_are_in_the_order_of_the_pairs() {
        let (first, second) = (PAIRS[0].name, PAIRS[1].name);
        let page = format!("# x\n\n| a |\n{HEAD_END}\n\nend\n");
        let page = with(&page, &row(second, "works"));
        let page = with(&page, &row(first, "fails"));
        assert_eq!(rows(&page), [row(first, "fails"), row(second, "works")]);
        let page = with(&page, &row(first, "works"));
        assert_eq!(rows(&page), [row(first, "works"), row(second, "works")]);
        assert!(
            page.starts_with("# x\n") && page.ends_with("|\n\nend\n"),
            "{page}"
        );
        let gone = format!("{page}{}\n", row("matrix/gone", "works").line());
        assert_eq!(rows(&with(&gone, &row(first, "works"))).len(), 2);
    }
}
